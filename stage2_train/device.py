"""PyTorch's process-wide options for the device of a training."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from common.cli.command import UserError, one_line
from common.storage.allocator import keep_freed_memory

if TYPE_CHECKING:
    from stage2_train.config import TrainingConfig


@contextlib.contextmanager
def full_memory_named(training: "TrainingConfig") -> Iterator[None]:
    """Turn the lack of a GPU's memory into UserError, which says what takes less."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{one_line(error).partition('. ')[0]}: lower training.batch_size={training.batch_size} and raise "
            "training.grad_accumulation by as much, which keeps the global batch, or set a smaller data.image_size"
        ) from error


def set_up_device(training: "TrainingConfig", device: torch.device) -> None:
    """Set PyTorch's process-wide options; raises UserError for a precision that the device does not support."""
    if training.amp == "fp16" and device.type == "cpu":
        raise UserError("training.amp=fp16 needs a CUDA device; on a CPU set training.amp=bf16 or none")
    torch.use_deterministic_algorithms(training.deterministic)
    if training.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = not training.deterministic
    else:
        keep_freed_memory()  # 5 % of a step

"""PyTorch's process-wide options for the device of a training."""

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING

import torch

from common.cli.command import UserError

if TYPE_CHECKING:
    from stage2_train.config import TrainingConfig

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


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
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step: to map and clear it again took 5 % of a step on a CPU."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries than glibc have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

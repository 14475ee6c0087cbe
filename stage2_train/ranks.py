"""torchrun's environment in, this process's place among the others out; without torchrun the world is one process."""

import contextlib
import inspect
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.command import UserError

ONE_BUCKET_MB = 1 << 20  # larger than any model here: one all-reduce for all gradients


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints and talks."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make a module average its gradients over the ranks in backward()."""
        if self.world_size == 1:
            return module
        # Frozen batch norms never change, so their buffers need no broadcast (newer torch has renamed the flag).
        known = inspect.signature(DistributedDataParallel).parameters
        flag = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        buffers: dict[str, Any] = {flag: False}
        return DistributedDataParallel(module, gradient_as_bucket_view=True, bucket_cap_mb=ONE_BUCKET_MB, **buffers)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value = value / self.world_size
        return value

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""
        if self.world_size > 1:
            dist.barrier()


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Join the group that torchrun's environment describes, and leave it at the end.

    Raises UserError when a CUDA device is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device=cuda: no CUDA device here; set training.device=cpu or auto")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    rank, world_size, local_rank = (
        int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    place = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(place)
    if world_size > 1:
        dist.init_process_group("nccl" if use_cuda else "gloo")
    try:
        yield Ranks(rank, world_size, place)
    finally:
        if world_size > 1:
            dist.destroy_process_group()

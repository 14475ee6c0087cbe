"""torchrun's environment in, this process's place among the others out; without torchrun the world is one process."""

import atexit
import contextlib
import inspect
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.cli.command import EXIT_TRANSIENT, EXIT_USER, TransientError, UserError, one_line

ONE_BUCKET_MB = 1 << 20  # larger than any model here: one all-reduce for all gradients
# A process that dies is noticed at once, by its closed connections. These bound the waiting for one that hangs: in a step,
# longer than any read or save should take, and where one process prepares what the others wait for, such as images.
STEP_TIMEOUT = timedelta(minutes=5)
SETUP_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device
    local_rank: int = 0
    # A second group, over gloo on any device: what is agreed there makes no step wait for a GPU.
    control: "dist.ProcessGroup | None" = field(default=None, repr=False)

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints and talks."""
        return self.rank == 0

    def wrap(self, module: nn.Module, bucket_mb: int = 0) -> nn.Module:
        """Make a module average its gradients over the ranks in backward(), and take over the first rank's weights."""
        if self.world_size == 1:
            return module
        # Frozen batch norms never change, so their buffers need no broadcast (newer torch has renamed the flag).
        known = inspect.signature(DistributedDataParallel).parameters
        flag = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        buffers: dict[str, Any] = {flag: False}
        bucket_mb = bucket_mb or ONE_BUCKET_MB
        return DistributedDataParallel(module, gradient_as_bucket_view=True, bucket_cap_mb=bucket_mb, **buffers)

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Return the tensors of all ranks, stacked, (world_size, ...)."""
        if self.world_size == 1:
            return value[None]
        gathered = [torch.empty_like(value) for _ in range(self.world_size)]
        dist.all_gather(gathered, value)
        return torch.stack(gathered)

    def share(self, values: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the first rank."""
        if self.world_size > 1:
            for value in values:
                dist.broadcast(value, src=0)

    def share_number(self, number: int) -> int:
        """Return the first rank's number; the others may have waited for it for long."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number)
        dist.broadcast(value, src=0, group=self.control)
        return int(value)

    def wait_for_all(self) -> None:
        """Return when every rank has come here, however long that takes."""
        if self.world_size > 1:
            dist.barrier(group=self.control)

    def leave(self, error: UserError | TransientError) -> NoReturn:
        """Leave with an error that every rank has found: the first one says it, the others go in silence."""
        if self.is_first:
            raise error
        raise SystemExit(EXIT_USER if isinstance(error, UserError) else EXIT_TRANSIENT)


class Poll:
    """Asks in every step whether any rank wishes something; the answer is there one step later, so nobody waits."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked: tuple[Tensor, dist.Work | None] | None = None

    def ask(self, *wishes: bool) -> list[bool]:
        """Put in this rank's wishes; returns which ones any rank had a step ago, the same on every rank.

        Alone in the world the answer is about this step.
        """
        if self._ranks.world_size == 1:
            return list(wishes)
        heard = [False] * len(wishes)
        if self._asked is not None:
            votes, work = self._asked
            if work is not None:
                work.wait()
            heard = votes.bool().tolist()
        votes = torch.tensor(wishes, dtype=torch.int32)
        work = dist.all_reduce(votes, dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        self._asked = votes, work
        return heard


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Join the group that torchrun's environment describes, and leave it at the end.

    Raises UserError when a CUDA device is asked for and there is none, TransientError when another process is lost.
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
    if world_size == 1:
        yield Ranks(rank, world_size, place, local_rank)
        return
    control: dist.ProcessGroup | None = None
    try:
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=STEP_TIMEOUT)
        control = dist.new_group(backend="gloo", timeout=SETUP_TIMEOUT)
        yield Ranks(rank, world_size, place, local_rank, control)
        dist.barrier(group=control)  # a process that leaves early looks like a dead one to those still talking
    except RuntimeError as error:
        if not _is_lost_contact(error):
            raise
        _abandon(control)
        raise TransientError(f"rank {rank} lost another process of the training: {one_line(error)}") from error
    finally:
        if dist.is_initialized() and not _abandoned:
            dist.destroy_process_group()


_abandoned: list[dist.ProcessGroup | None] = []


def _abandon(control: dist.ProcessGroup | None) -> None:
    """Have this process end without taking its groups apart: with another process gone, that may wait for hours."""
    _abandoned.append(control)  # nothing lets go of it, until the process is gone
    atexit.register(_leave_at_once)


def _leave_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_TRANSIENT)


def _is_lost_contact(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))

"""The process group of a training: rank, world size and device from torchrun's environment; one process without torchrun."""

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
# A process that dies is noticed at once, because its connections close. The timeouts bound the wait for a process that
# hangs: within a step, and where one process prepares what the others wait for, such as the frame cache.
STEP_TIMEOUT = timedelta(minutes=5)
SETUP_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True)
class World:
    """The rank of this process, the number of processes, and the device this process computes on."""

    rank: int
    size: int
    device: torch.device
    # A second group over gloo, whatever the device: control messages never make a step wait for a GPU.
    control_group: "dist.ProcessGroup | None" = field(default=None, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints and logs."""
        return self.rank == 0

    def wrap(self, module: nn.Module, bucket_mb: int = 0, static_graph: bool = False) -> nn.Module:
        """Return the module with DDP around it: the main process's weights, gradients averaged over the ranks.

        `static_graph` says that every backward pass averages the same gradients, and so excludes `no_sync`.
        """
        if self.size == 1:
            return module
        # The buffers are those of frozen batch norms, which never change (newer torch has renamed the flag).
        parameters = inspect.signature(DistributedDataParallel).parameters
        flag = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
        no_buffers: dict[str, Any] = {flag: False}
        return DistributedDataParallel(
            module,
            gradient_as_bucket_view=True,
            bucket_cap_mb=bucket_mb or ONE_BUCKET_MB,
            static_graph=static_graph,
            **no_buffers,
        )

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def all_gather(self, value: Tensor) -> Tensor:
        """Return the tensors of all ranks, stacked, (size, ...)."""
        if self.size == 1:
            return value[None]
        gathered = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(gathered, value)
        return torch.stack(gathered)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors with those of the main process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def broadcast_int(self, value: int) -> int:
        """Return the main process's number, however long that process takes to get here."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.broadcast(tensor, src=0, group=self.control_group)
        return int(tensor)

    def barrier(self) -> None:
        """Wait until every rank has reached this call, however long that takes."""
        if self.size > 1:
            dist.barrier(group=self.control_group)

    def exit_with(self, error: UserError | TransientError) -> NoReturn:
        """Exit with an error that every rank has found: the main process raises it, the others exit silently."""
        if self.is_main:
            raise error
        raise SystemExit(EXIT_USER if isinstance(error, UserError) else EXIT_TRANSIENT)


class AsyncFlags:
    """Tells all ranks about a flag that any rank has set, one step later, so that no step waits for the answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pending: tuple[Tensor, dist.Work | None] | None = None

    def any(self, *flags: bool) -> list[bool]:
        """Send this rank's flags; returns which ones any rank sent in the previous call, the same on every rank.

        With a single process the answer is about this call.
        """
        if self._world.size == 1:
            return list(flags)
        previous = [False] * len(flags)
        if self._pending is not None:
            reduced, work = self._pending
            if work is not None:
                work.wait()
            previous = reduced.bool().tolist()
        sent = torch.tensor(flags, dtype=torch.int32)
        work = dist.all_reduce(sent, dist.ReduceOp.MAX, group=self._world.control_group, async_op=True)
        self._pending = sent, work
        return previous


@contextlib.contextmanager
def init_distributed(device: str) -> Iterator[World]:
    """Join the process group that torchrun's environment describes, and leave it at the end.

    Raises UserError when a CUDA device is asked for and there is none, TransientError when another process is lost.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("training.device=cuda: no CUDA device found; set training.device=cpu or auto")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    rank, local_rank = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    size = int(os.environ.get("WORLD_SIZE", "1"))
    torch_device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(torch_device)
    if size == 1:
        yield World(rank, size, torch_device)
        return
    control_group: dist.ProcessGroup | None = None
    try:
        dist.init_process_group("nccl" if use_cuda else "gloo", timeout=STEP_TIMEOUT)
        control_group = dist.new_group(backend="gloo", timeout=SETUP_TIMEOUT)
        yield World(rank, size, torch_device, control_group)
        dist.barrier(group=control_group)  # to the others, a process that leaves early looks like a dead one
    except RuntimeError as error:
        if not _is_lost_connection(error):
            raise
        _skip_group_teardown(control_group)
        raise TransientError(f"rank {rank} lost another process of the training: {one_line(error)}") from error
    finally:
        if dist.is_initialized() and not _abandoned:
            dist.destroy_process_group()


_abandoned: list[dist.ProcessGroup | None] = []


def _skip_group_teardown(control_group: dist.ProcessGroup | None) -> None:
    """End this process without destroying its groups: with another process gone, that may block for hours."""
    _abandoned.append(control_group)  # a reference until the end: the destructor blocks, too
    atexit.register(_exit_at_once)


def _exit_at_once() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_TRANSIENT)


def _is_lost_connection(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))

"""Gradients of two processes over gloo against those of one process on the same global batch, and the buckets reduced.

`python -m bench.ddp`: it starts both processes itself, by torchrun.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from bench.bars import print_bar
from bench.step import random_inputs
from common.act.config import ActConfig
from common.act.network import Act
from common.cli.command import Parser, run
from stage2_train.distributed import World, init_distributed
from stage2_train.loss import act_loss

BATCH, SIZE = 4, (96, 128)


def gradients(world: World) -> tuple[dict[str, Tensor], int]:
    """Return this rank's averaged gradients of a global batch, in float64, and how many buckets were reduced."""
    torch.manual_seed(0)
    network = Act(ActConfig(dim_model=128, dim_feedforward=256, dropout=0.0), 6, 6, 1).double().train()
    state, (image,), action, is_pad, noise = random_inputs(BATCH, SIZE, 100)
    image, reduced = image.double(), 0
    model = world.wrap(network, static_graph=True)

    def count(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        nonlocal reduced
        reduced += 1
        work = dist.all_reduce(bucket.buffer().div_(world.size), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])  # type: ignore[no-any-return]

    if world.size > 1:
        model.register_comm_hook(None, count)  # type: ignore[operator]
    part = BATCH // world.size
    own = slice(world.rank * part, (world.rank + 1) * part)
    output = model(state.double()[own], [image[own]], action.double()[own], is_pad[own], noise.double()[own])
    valid = int((~is_pad).sum())
    act_loss(output, action.double()[own], is_pad[own], 10.0, valid, world.size).total.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad.contiguous() for name, p in network.named_parameters() if p.grad is not None}, reduced


def main(argv: Sequence[str] | None = None) -> int:
    """Start two processes; in the first of them, compare and print the bars."""
    Parser("python -m bench.ddp", description=__doc__).parse_args(argv)
    if "RANK" not in os.environ:
        torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "bench.ddp"]
        return subprocess.run([sys.executable, "-m", *torchrun], check=False).returncode
    logging.getLogger().setLevel(logging.WARNING)
    with init_distributed("cpu") as world:
        averaged, reduced = gradients(world)
        if world.is_main:
            alone, _ = gradients(World(0, 1, torch.device("cpu")))
            worst = max(
                float((averaged[name] - value).abs().max() / value.abs().max().clamp(min=1))
                for name, value in alone.items()
            )
            print_bar("ddp", "largest difference of a gradient <= 1e-6", worst, worst <= 1e-6)
            print_bar("ddp", "buckets reduced = 1", reduced, reduced == 1)
    return 0


if __name__ == "__main__":
    run(main)

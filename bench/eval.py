"""Measures the evaluation: batches against single frames, the deployed network against the training's, and latency.

`python -m bench.eval` takes a minute or two on two cores: the default policy (52 M parameters), random weights and images.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.bars import print_bar, seconds
from bench.plain import plain_act
from common.act.checkpoint import Checkpoint, PolicyShape, new_network
from common.act.config import ActConfig
from common.act.normalization import Normalizer
from common.act.records import Robot
from common.cli.command import Parser, run
from common.lerobot.metadata import STATE, image_key
from common.policy import Policy
from stage3_eval.metrics.totals import describe_latency
from stage3_eval.predict import time_call

JOINTS, CAMERA = 6, "color"
LARGE, SMALL = (480, 640), (64, 96)
MAPPING = {"STATE": "MEAN_STD", "ACTION": "MEAN_STD", "VISUAL": "MEAN_STD"}
TIMED = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run every bar and print the table."""
    Parser("python -m bench.eval", description=__doc__).parse_args(argv)
    for size in (SMALL, LARGE):
        policy = new_policy(size)
        _batches(policy, size)
        _deployed(policy, size)
        if size == LARGE:
            _latency(policy, size)
    return 0


def new_policy(size: tuple[int, int]) -> Policy:
    """Return the default policy for one camera of this size, with random weights."""
    shape = PolicyShape(JOINTS, JOINTS, {CAMERA: (*size, 3)})
    statistics = {
        f"{key}.{name}": torch.full(size, value)
        for key, size in shape.sizes().items()
        for name, value in (("mean", 0.4), ("std", 0.3))
    }
    torch.manual_seed(0)
    network = new_network(ActConfig(), shape)
    normalizer = Normalizer(statistics, MAPPING, shape.sizes(), "bench")
    return Policy(Checkpoint(network, ActConfig(), shape, normalizer, Robot()))


def observations(size: tuple[int, int], frames: int) -> dict[str, Any]:
    """Return an episode's worth of observations."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (frames, *size, 3), dtype=np.uint8)
    return {STATE: rng.normal(size=(frames, JOINTS)).astype(np.float32), image_key(CAMERA): images}


def _batches(policy: Policy, size: tuple[int, int]) -> None:
    frames = 32 if size == SMALL else 4
    episode = observations(size, frames)

    def predict(batch_size: int) -> Tensor:
        starts = range(0, frames, batch_size)
        return torch.cat(
            [
                policy.predict_chunk({key: rows[start : start + batch_size] for key, rows in episode.items()})
                for start in starts
            ]
        )

    single_s, batched_s = seconds([lambda: predict(1), lambda: predict(frames)], rounds=3)
    bar, ratio = (2.0 if size == SMALL else 1.0), single_s / batched_s
    name = f"{size[0]}x{size[1]}"
    print_bar("eval", f"one at a time / batches of {frames} at {name} >= {bar:g}", ratio, ratio >= bar)


def _deployed(policy: Policy, size: tuple[int, int]) -> None:
    """Compare the frozen network with the training's module in eval mode, and with ACT as it is usually written."""
    state_BD, images, _ = policy.inputs(observations(size, 1))
    training = new_network(policy.checkpoint.act, policy.checkpoint.shape)
    training.load_state_dict(policy.network.state_dict())
    training.eval()
    plain = plain_act(training)
    sides: list[Callable[[], Tensor]] = [
        lambda: policy.network(state_BD, images).actions_BCA,
        lambda: training(state_BD, images).actions_BCA,
        lambda: plain(state_BD, images).actions_BCA,
    ]
    with torch.no_grad():
        deployed_s, training_s, plain_s = seconds(sides, rounds=9 if size == SMALL else 5)
    name = f"{size[0]}x{size[1]}"
    # The training's module also folds its norms, but at every call, which costs most where images are small.
    bar, ratio = (1.2 if size == SMALL else 1.0), training_s / deployed_s
    print_bar("eval", f"the training's module in eval mode / deployed at {name} >= {bar:g}", ratio, ratio >= bar)
    if size == LARGE:
        ratio = plain_s / deployed_s
        print_bar("eval", f"ACT as it is usually written / deployed at {name} >= 1.2", ratio, ratio >= 1.2)


def _latency(policy: Policy, size: tuple[int, int]) -> None:
    observation = observations(size, 1)
    first_s = time_call(new_policy(size), observation)[0]
    policy.predict_chunk(observation)
    latency = describe_latency([time_call(policy, observation)[0] for _ in range(TIMED)], first_s, policy.device.type)
    machine = f"{latency.machine}, {latency.device}, {latency.threads} threads"
    percentiles = {"p50": latency.p50_s, "p95": latency.p95_s, "p99": latency.p99_s}
    times = ", ".join(f"{name} {1000 * (seconds or 0):.0f} ms" for name, seconds in percentiles.items())
    print(
        f"one prediction of the default policy, {size[0]}x{size[1]}, {machine}: {times}, first {1000 * first_s:.0f} ms"
    )


if __name__ == "__main__":
    run(main)

"""Each process has dropout of its own and its part of the VAE's noise, also after it was killed and started again."""

import itertools

import pytest
import torch

from stage2_train.batches import step_seed
from tests.reliability.conftest import Stopped

SEED, LATENT, GLOBAL_BATCH = 1000, 4, 4


def test_no_two_processes_or_steps_drop_the_same(stopped: Stopped) -> None:
    masks = [note["mask"] for of in stopped.whole for note in of]
    assert len(masks) == 24
    assert all("1" in mask and len(mask) == len(masks[0]) for mask in masks)
    assert all(one != other for one, other in itertools.combinations(masks, 2))


@pytest.mark.parametrize("what", ["mask", "noise"])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_drawn_after_a_kill_is_what_would_have_been_drawn(stopped: Stopped, rank: int, what: str) -> None:
    whole, before, after = ([note[what] for note in of[rank]] for of in (stopped.whole, stopped.before, stopped.after))
    assert before == whole[: len(before)]
    assert after == whole[stopped.step :]


def test_the_noise_of_all_processes_is_one_draw_for_the_global_batch(stopped: Stopped) -> None:
    for step, (one, other) in enumerate(zip(*stopped.whole, strict=True)):
        generator = torch.Generator().manual_seed(step_seed(SEED, step))
        drawn = torch.randn(GLOBAL_BATCH, LATENT, generator=generator)
        assert torch.equal(torch.tensor(one["noise"] + other["noise"]), drawn)
        assert len({tuple(row) for row in drawn.tolist()}) == GLOBAL_BATCH


def test_ranks_shares_and_steps_have_seeds_of_their_own() -> None:
    seeds = {step_seed(SEED, rank, step) for rank in range(8) for step in range(200)}
    assert len(seeds) == 1600

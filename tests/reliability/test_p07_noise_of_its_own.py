"""Each process has its own dropout and its own part of the VAE's noise, also after a kill and a resume."""

import pytest
import torch

from stage2_train.batches import step_seed
from tests.reliability.conftest import Resumed

SEED, LATENT, GLOBAL_BATCH = 1000, 4, 4


def test_no_two_processes_or_steps_drop_the_same(resumed: Resumed) -> None:
    masks = [draws["mask"] for rank in resumed.whole for draws in rank]
    assert len(masks) == 24
    assert all("1" in mask and len(mask) == len(masks[0]) for mask in masks)
    assert len(set(masks)) == len(masks)


@pytest.mark.parametrize("key", ["mask", "noise"])
@pytest.mark.parametrize("rank", [0, 1])
def test_what_is_drawn_after_a_kill_is_what_would_have_been_drawn(resumed: Resumed, rank: int, key: str) -> None:
    whole, before, after = (
        [draws[key] for draws in run[rank]] for run in (resumed.whole, resumed.before, resumed.after)
    )
    assert before == whole[: len(before)]
    assert after == whole[resumed.step :]


def test_the_noise_of_all_processes_is_one_draw_for_the_global_batch(resumed: Resumed) -> None:
    for step, (first, second) in enumerate(zip(*resumed.whole, strict=True)):
        generator = torch.Generator().manual_seed(step_seed(SEED, step))
        drawn = torch.randn(GLOBAL_BATCH, LATENT, generator=generator)
        assert torch.equal(torch.tensor(first["noise"] + second["noise"]), drawn)
        assert len({tuple(row) for row in drawn.tolist()}) == GLOBAL_BATCH


def test_every_rank_and_step_has_its_own_seed() -> None:
    seeds = {step_seed(SEED, rank, step) for rank in range(8) for step in range(200)}
    assert len(seeds) == 1600

"""Training as users start it: with python, with torchrun, and with every kind of mistake."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.policy import Policy
from tests.conftest import GOLDEN, TINY_TRAINING, run_module


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Everything but the output folder; all runs share one cache of decoded pictures."""
    cache = tmp_path_factory.mktemp("cache")
    overrides = [f"data.dataset={GOLDEN / 'dataset_image'}", f"data.cache_dir={cache}", *TINY_TRAINING]
    return [part for item in overrides for part in ("--override", item)]


@pytest.fixture(scope="module")
def alone(flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process, with dropout off so that it can be compared."""
    out = tmp_path_factory.mktemp("alone")
    done = run_module("stage2_train", *flags, "--override", f"training.output_dir={out}", "model.dropout=0")
    assert done.returncode == 0, done.stderr
    return out


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_numbered_checkpoints_metrics_and_a_curve(alone: Path) -> None:
    assert sorted(p.name for p in alone.iterdir()) == [
        "checkpoint_000002",
        "checkpoint_000004",
        "curves.png",
        "metrics.jsonl",
    ]
    assert [row["step"] for row in metrics(alone)] == [1, 2, 3, 4]
    assert {"loss", "l1_loss", "kl_loss", "lr", "grad_norm", "step_s", "data_wait_s"} <= metrics(alone)[0].keys()


def test_the_checkpoint_loads_and_remembers_the_training(alone: Path) -> None:
    policy = Policy.load(alone / "checkpoint_000004" / "pretrained_model")
    assert policy.joint_names[0] == "shoulder_pan"
    assert (policy.fps, policy.chunk_size, policy.cameras) == (30, 10, {"color": (64, 96, 3)})
    record = policy.checkpoint.train_config
    assert record["config"]["training"]["lr"] == 1e-4
    assert record["dataset"]["episodes"] == 2


def test_the_manifest_lies_beside_pretrained_model_never_in_it(alone: Path) -> None:
    manifest = json.loads((alone / "checkpoint_000004" / "manifest.json").read_text())
    assert "pretrained_model/model.safetensors" in manifest
    assert not (alone / "checkpoint_000004" / "pretrained_model" / "manifest.json").exists()


def test_the_normalisation_is_imagenets_for_pictures_and_the_datasets_for_joints(alone: Path) -> None:
    folder = alone / "checkpoint_000004" / "pretrained_model"
    tensors = load_file(folder / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    stats = json.loads((GOLDEN / "dataset_image" / "meta" / "stats.json").read_text())
    assert tensors["observation.images.color.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert tensors["observation.state.mean"].tolist() == pytest.approx(stats["observation.state"]["mean"], rel=1e-6)


def test_two_processes_give_the_losses_of_one_on_the_same_global_batches(
    flags: list[str], alone: Path, tmp_path: Path
) -> None:
    together = ["--override", f"training.output_dir={tmp_path}", "model.dropout=0", "training.batch_size=2"]
    done = run_module("stage2_train", *flags, *together, torchrun=2)
    assert done.returncode == 0, done.stderr
    for one, two in zip(metrics(alone), metrics(tmp_path), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["l1_loss"] == pytest.approx(one["l1_loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    name = Path("checkpoint_000004/pretrained_model/model.safetensors")
    one_weights, two_weights = load_file(alone / name), load_file(tmp_path / name)
    for key, value in one_weights.items():
        # No loss depends on a key's bias, nor on how the decoder's first queries meet its first keys (all values are equal
        # there): their gradients are rounding noise, which Adam scales up to whole steps.
        if not key.endswith("in_proj_bias") and "decoder.layers.0.self_attn.in_proj" not in key:
            torch.testing.assert_close(two_weights[key], value, atol=1e-5, rtol=1e-5)


def test_plain_torchrun_is_the_same_as_plain_python(flags: list[str], alone: Path, tmp_path: Path) -> None:
    args = [*flags, "--override", f"training.output_dir={tmp_path}", "model.dropout=0"]
    done = run_module("stage2_train", *args, torchrun=1)
    assert done.returncode == 0, done.stderr
    assert [row["loss"] for row in metrics(tmp_path)] == pytest.approx(
        [row["loss"] for row in metrics(alone)], rel=1e-6
    )


def test_a_run_never_mixes_with_an_earlier_one(flags: list[str], alone: Path) -> None:
    before = (alone / "metrics.jsonl").read_bytes()
    done = run_module("stage2_train", *flags, "--override", f"training.output_dir={alone}")
    assert done.returncode == 2
    assert "already holds checkpoint_000004" in done.stderr
    assert (alone / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.lrr=1"], "unknown key training.lrr; did you mean training.lr?"),
        (
            ["training.scheduler=cosine", "training.warmup_steps=9"],
            "training.warmup_steps=9 is longer than the run, training.steps=4",
        ),
        (["training.scheduler=linear"], "one of none, cosine"),
        (["model.chunk_size=23"], "model.chunk_size=23 is longer than every episode (the longest has 22 frames)"),
        (["data.fps=10"], "data.fps=10, but"),
        (["data.dataset=/nowhere"], "no dataset in /nowhere"),
        (["data.episodes=[5]"], "names episode 5"),
        (["model.n_heads=5"], "model.dim_model=32: expected a multiple of 4 and of model.n_heads=5"),
        (["model.pretrained_backbone_weights=/nowhere.pth"], "/nowhere.pth"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    flags: list[str], tmp_path: Path, overrides: list[str], words: str
) -> None:
    done = run_module("stage2_train", *flags, "--override", f"training.output_dir={tmp_path / 'out'}", *overrides)
    assert done.returncode == 2
    assert words in done.stderr
    assert re.fullmatch(r"(\d\d:.*\n)*error: .*\n", done.stderr), done.stderr
    assert not (tmp_path / "out").exists()


def test_warm_up_is_ignored_without_a_schedule(flags: list[str], tmp_path: Path) -> None:
    args = ["--override", f"training.output_dir={tmp_path}", "training.warmup_steps=9", "training.steps=1"]
    done = run_module("stage2_train", *flags, *args)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path)[0]["lr"] == 1e-4


def test_wandb_offline_writes_a_run_and_is_not_needed_otherwise(flags: list[str], tmp_path: Path) -> None:
    args = [
        "--override",
        f"training.output_dir={tmp_path}",
        "training.steps=1",
        "wandb.enabled=true",
        "wandb.mode=offline",
    ]
    done = run_module("stage2_train", *flags, *args)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))


def test_bfloat16_learns_like_float32_and_saves_float32(flags: list[str], alone: Path, tmp_path: Path) -> None:
    args = [*flags, "--override", f"training.output_dir={tmp_path}", "model.dropout=0", "training.amp=bf16"]
    done = run_module("stage2_train", *args)
    assert done.returncode == 0, done.stderr
    half, full = ([row["loss"] for row in metrics(out)] for out in (tmp_path, alone))
    assert half == pytest.approx(full, rel=0.02)
    assert half != full
    weights = load_file(tmp_path / "checkpoint_000004" / "pretrained_model" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}

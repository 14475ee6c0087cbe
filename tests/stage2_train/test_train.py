"""Training: what it writes, that several processes give the results of one, and what is refused."""

import json
import logging
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from common.cli.command import UserError
from common.cli.config import load
from common.lerobot.dataset import Dataset
from common.policy import Policy
from stage2_train.__main__ import main
from stage2_train.checkpoints.initial import statistics
from stage2_train.config import TrainConfig, TrainingConfig
from stage2_train.device import full_memory_named
from stage2_train.loop import StopSignals
from stage2_train.train import train
from tests.conftest import GOLDEN, TINY_TRAINING, run_module
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import (
    TINY,
    metrics,
    paths,
    stderr,
    tiny_config,
    train_as,
    without_times,
    write_dataset,
)

pytestmark = pytest.mark.integration

WEIGHTS = Path("pretrained_model/model.safetensors")
MISTAKES = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text())


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def golden_run(out: Path, cache: Path, *overrides: str) -> Path:
    """Train in this process on images that LeRobot wrote, with dropout off so that runs can be compared."""
    own = [*paths(GOLDEN / "dataset_image", out), f"data.cache_dir={cache}", "model.dropout=0"]
    train(load(TrainConfig, None, [*TINY_TRAINING, *own, *overrides]))
    return out


@pytest.fixture(scope="module")
def alone(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return golden_run(tmp_path_factory.mktemp("alone"), cache)


def test_a_run_leaves_numbered_checkpoints_metrics_and_a_curve(alone: Path) -> None:
    assert sorted(p.name for p in alone.iterdir() if p.name != ".lock") == [
        "checkpoint_000002",
        "checkpoint_000004",
        "curves.png",
        "metrics.jsonl",
    ]
    manifest = json.loads((alone / "checkpoint_000004" / "manifest.json").read_text())
    assert "pretrained_model/model.safetensors" in manifest
    assert not (alone / "checkpoint_000004" / "pretrained_model" / "manifest.json").exists()
    assert [row["step"] for row in metrics(alone)] == [1, 2, 3, 4]
    measured = {"loss", "l1_loss", "kl_loss", "lr", "grad_norm", "samples_per_s", "step_s", "data_wait_s", "memory_gb"}
    assert measured | {"step", "epoch"} == metrics(alone)[0].keys()


def test_the_checkpoint_loads_and_records_the_training(alone: Path) -> None:
    policy = Policy.load(alone / "checkpoint_000004" / "pretrained_model")
    assert policy.joint_names[0] == "shoulder_pan"
    assert (policy.fps, policy.chunk_size, policy.cameras) == (30, 10, {"color": (64, 96, 3)})
    record = policy.checkpoint.train_config
    assert record["config"]["training"]["lr"] == 1e-4
    assert record["dataset"]["episodes"] == 2
    assert {"torch", "numpy", "python"} <= record["versions"].keys()
    assert re.fullmatch("[0-9a-f]{40}", record["git_commit"] or "0" * 40)


def test_the_optimizer_state_has_lerobots_file_names_and_keys(alone: Path) -> None:
    state = alone / "checkpoint_000004" / "training_state"
    groups = json.loads((state / "optimizer_param_groups.json").read_text())
    tensors = load_file(state / "optimizer_state.safetensors")
    numbers = [number for group in groups for number in group["params"]]
    assert numbers == list(range(len(numbers)))
    assert {f"state/{n}/{key}" for n in numbers for key in ("exp_avg", "exp_avg_sq", "step")} == tensors.keys()
    assert {int(tensors[f"state/{n}/step"]) for n in numbers} == {4}
    wanted = {"step": 4, "num_processes": 1, "batch_size": 4, "grad_accum_steps": 1}
    assert json.loads((state / "training_step.json").read_text()) == wanted
    network = Policy.load(alone / "checkpoint_000004").checkpoint.network
    shapes = [p.shape for p in network.parameters() if not any(p is b for b in network.backbone_parameters())]
    assert [tensors[f"state/{n}/exp_avg"].shape for n in groups[0]["params"]] == shapes


def test_normalization_uses_imagenet_statistics_for_images_and_the_datasets_for_joints(alone: Path) -> None:
    folder = alone / "checkpoint_000004" / "pretrained_model"
    tensors = load_file(folder / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    stats = json.loads((GOLDEN / "dataset_image" / "meta" / "stats.json").read_text())
    assert tensors["observation.images.color.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert tensors["observation.state.mean"].tolist() == pytest.approx(stats["observation.state"]["mean"], rel=1e-6)


def assert_same_weights(one: Path, two: Path) -> None:
    one_weights, two_weights = load_file(one / WEIGHTS), load_file(two / WEIGHTS)
    assert one_weights.keys() == two_weights.keys()
    for key, value in one_weights.items():
        # No loss depends on a key's bias, nor on how the decoder's first queries meet its first keys (all values are equal
        # there): their gradients are rounding noise, which Adam scales up to whole steps.
        if not key.endswith("in_proj_bias") and "decoder.layers.0.self_attn.in_proj" not in key:
            torch.testing.assert_close(two_weights[key], value, atol=1e-5, rtol=1e-5)


def test_two_processes_with_images_give_the_losses_and_weights_of_one(warm: Warm, alone: Path, tmp_path: Path) -> None:
    args = [*TINY_TRAINING, "model.dropout=0", "training.batch_size=2", "model.latent_dim=32"]
    out = train_as(2, warm, GOLDEN / "dataset_image", tmp_path / "out", *args)
    for one, two in zip(metrics(alone), metrics(out), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["l1_loss"] == pytest.approx(one["l1_loss"], rel=1e-5)
        assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert_same_weights(alone / "checkpoint_000004", out / "checkpoint_000004")
    assert "strides" not in stderr(out) + stderr(out, 1)


def test_the_result_depends_on_the_global_batch_not_on_how_it_is_split(
    warm: Warm, dataset: Path, tmp_path: Path
) -> None:
    same = ("model.dropout=0", "training.steps=20", "training.save_freq=20")
    for name, split, world_size in (
        ("one", ["training.batch_size=4"], 1),
        ("two", ["training.batch_size=2"], 2),
        ("parts", ["training.batch_size=1", "training.grad_accumulation=2"], 2),
    ):
        train_as(world_size, warm, dataset, tmp_path / name, *same, *split)
    for name in ("two", "parts"):
        assert_same_weights(tmp_path / "one" / "checkpoint_000020", tmp_path / name / "checkpoint_000020")
        for one, other in zip(metrics(tmp_path / "one"), metrics(tmp_path / name), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert other["kl_loss"] == pytest.approx(one["kl_loss"], rel=1e-5)


@pytest.mark.slow
def test_torchrun_and_plain_python_are_the_same(dataset: Path, tmp_path: Path) -> None:
    train(tiny_config(dataset, tmp_path / "alone"))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(tiny_config(dataset, tmp_path / "torchrun").model_dump(mode="json")))
    done = run_module("stage2_train", "--config", config, torchrun=1)
    assert done.returncode == 0, done.stderr
    assert without_times(tmp_path / "torchrun") == without_times(tmp_path / "alone")


def test_several_cameras_an_environment_state_and_resized_images_are_trained_on(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", cameras={"front": (48, 64), "wrist": (40, 40)}, environment=4)
    size = ["data.image_size=[32, 40]", "data.image_stats=imagenet", "training.steps=2", "training.log_freq=1"]
    variants = ["model.use_vae=false", "model.pre_norm=true", "model.n_decoder_layers=2"]
    variants += ["model.feedforward_activation=gelu"]
    train(tiny_config(dataset, tmp_path / "out", *size, *variants))
    policy = Policy.load(tmp_path / "out" / "checkpoint_000002")
    assert policy.cameras == {"front": (32, 40, 3), "wrist": (32, 40, 3)}
    assert policy.checkpoint.shape.environment_dim == 4
    assert policy.checkpoint.normalizer.mapping["ENV"] == "MEAN_STD"
    assert metrics(tmp_path / "out")[-1]["kl_loss"] == 0
    assert policy.checkpoint.act.n_decoder_layers == 2


def test_a_fraction_that_rounds_to_no_episode_is_a_warning(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tiny_config(dataset, tmp_path / "out", "data.val_fraction=0.1", "training.steps=1"))
    assert "data.val_fraction=0.1 of 3 episodes rounds to none held out" in caplog.text


@pytest.mark.parametrize(("overrides", "message"), MISTAKES, ids=str)
def test_a_mistake_is_refused_before_anything_is_written(
    dataset: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    if "nowhere.pth" in message:
        dataset = write_dataset(tmp_path / "images", cameras={"front": (32, 32)})
    with pytest.raises(UserError, match=re.escape(message)):
        main(["--override", *TINY, *paths(dataset, tmp_path / "out"), *overrides])
    assert not (tmp_path / "out").exists()


def dataset_with_std(root: Path, key: str, std: list[float] | None) -> Path:
    """A dataset whose stats.json gives this standard deviation, or none."""
    path = write_dataset(root) / "meta" / "stats.json"
    stats = json.loads(path.read_text())
    stats[key] = {"mean": stats[key]["mean"], **({"std": std} if std else {})}
    path.write_text(json.dumps(stats))
    return root


def test_missing_statistics_are_refused(tmp_path: Path) -> None:
    dataset = dataset_with_std(tmp_path / "dataset", "action", None)
    with pytest.raises(UserError, match=r"action: std: found no value, expected 2 finite numbers"):
        train(tiny_config(dataset, tmp_path / "out"))


def test_the_std_of_a_joint_that_never_moves_has_a_lower_bound(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = dataset_with_std(tmp_path / "dataset", "observation.state", [1.0, 0.0, 1.0])
    with caplog.at_level(logging.WARNING):
        train(tiny_config(dataset, tmp_path / "out", "training.steps=1"))
    assert "observation.state of 1 hardly varies: its standard deviation 0 is set to 0.001" in caplog.text
    folder = tmp_path / "out/checkpoint_000001/pretrained_model"
    tensors = load_file(folder / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    assert tensors["observation.state.std"][1].item() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("ends", "std", "expected"),
    [
        ((0.0, 1e-4), 3e-5, 3e-5),  # a small unit
        ((0.0, 50.0), 0.01, 0.5),  # a rare motion
        ((1000.0, 1000.0), 1e-7, 1e-3),  # never moves
    ],
)
def test_the_bound_of_a_std_follows_the_range_of_the_joint(
    ends: tuple[float, float], std: float, expected: float, tmp_path: Path
) -> None:
    path = write_dataset(tmp_path / "dataset") / "meta" / "stats.json"
    stats = json.loads(path.read_text())
    values = {"min": ends[0], "max": ends[1], "std": std}
    stats["observation.state"] |= {name: [0.0 if name == "min" else 1.0, value, 1.0] for name, value in values.items()}
    path.write_text(json.dumps(stats))
    found = statistics(Dataset.open(tmp_path / "dataset"), "dataset")["observation.state.std"]
    assert found.tolist() == pytest.approx([1.0, expected, 1.0])


def test_bfloat16_learns_like_float32_and_saves_float32(alone: Path, cache: Path, tmp_path: Path) -> None:
    golden_run(tmp_path, cache, "training.amp=bf16", "training.save_freq=4")
    half, full = ([row["loss"] for row in metrics(out)] for out in (tmp_path, alone))
    assert half == pytest.approx(full, rel=0.02)
    assert half != full
    weights = load_file(tmp_path / "checkpoint_000004" / WEIGHTS)
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_deterministic_refuses_other_operations_and_gives_the_same_bits(dataset: Path, tmp_path: Path) -> None:
    def put_twice() -> None:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)

    one, other = (tmp_path / name for name in ("one", "other"))
    for out in (one, other):
        train(tiny_config(dataset, out, "training.deterministic=true"))
    try:
        with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
            put_twice()
    finally:
        train(tiny_config(dataset, tmp_path / "free", "training.steps=1"))  # resets the option
    put_twice()
    assert (one / "checkpoint_000012" / WEIGHTS).read_bytes() == (other / "checkpoint_000012" / WEIGHTS).read_bytes()
    assert without_times(one) == without_times(other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.slow
def test_a_compiled_network_gives_the_losses_of_an_eager_one(alone: Path, cache: Path, tmp_path: Path) -> None:
    golden_run(tmp_path, cache, "training.compile=true")
    for compiled, eager in zip(metrics(tmp_path), metrics(alone), strict=True):
        assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-4)
        assert compiled["grad_norm"] == pytest.approx(eager["grad_norm"], rel=1e-3)


def test_a_second_ctrl_c_ends_the_process_at_once(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        signals.deferred = True
        signal.raise_signal(signal.SIGINT)
        assert (signals.received, signal.getsignal(signal.SIGINT)) == (signal.SIGINT, signal.SIG_DFL)
    assert signal.getsignal(signal.SIGINT) == before
    assert "Ctrl-C again stops at once" in capfd.readouterr().err


def test_a_gpu_without_memory_is_told_what_takes_less() -> None:
    text = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB."
    expected = r"CUDA out of memory: lower training.batch_size=8 and raise training.grad_accumulation"
    with pytest.raises(UserError, match=expected), full_memory_named(TrainingConfig(batch_size=8)):
        raise torch.OutOfMemoryError(text)

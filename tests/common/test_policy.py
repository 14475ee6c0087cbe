"""The policy answers what LeRobot's answers, to the digit, and refuses what would make it answer nonsense."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.act.checkpoint import read_settings
from common.act.processors import PREPROCESSOR, STATE_FILES, read_processors
from common.cli.command import UserError
from common.policy import Policy, _Ensemble
from tests.conftest import GOLDEN

KEYS = {
    "config.json",
    "model.safetensors",
    "policy_preprocessor.json",
    "policy_preprocessor_step_3_normalizer_processor.safetensors",
    "policy_postprocessor.json",
    "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
    "train_config.json",
}


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    return dict(load_file(GOLDEN / "act_tiny" / "inputs.safetensors"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return dict(load_file(GOLDEN / "act_tiny" / "expected.safetensors"))


@pytest.fixture
def policy(act_tiny: Path) -> Policy:
    return Policy.load(act_tiny)


def assert_close(actual: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(actual, wanted, atol=1e-5, rtol=0.0)


def observation(inputs: dict[str, Tensor], at: slice = slice(None), prefix: str = "") -> dict[str, Tensor]:
    image = inputs[f"{prefix}image_u8_hwc"][at]
    return {"observation.state": inputs[f"{prefix}state"][at], "observation.images.color": image}


def act_twelve_times(policy: Policy, inputs: dict[str, Tensor]) -> Tensor:
    return torch.cat([policy.select_action(observation(inputs, slice(i, i + 1), "seq_")) for i in range(12)])


def test_a_chunk_of_tensors_or_arrays_equals_lerobots_in_robot_units(
    policy: Policy, inputs: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    chunk = policy.predict_chunk(observation(inputs))
    assert chunk.dtype == torch.float32
    assert_close(chunk, expected["eval.chunk"])
    arrays = {key: value.numpy() for key, value in observation(inputs).items()}
    assert_close(policy.predict_chunk(arrays), expected["eval.chunk"])


@pytest.mark.parametrize("n_action_steps", [4, 10])
def test_the_action_queue_equals_lerobots(
    policy: Policy, inputs: dict[str, Tensor], expected: dict[str, Tensor], n_action_steps: int
) -> None:
    policy.n_action_steps = n_action_steps
    assert_close(act_twelve_times(policy, inputs), expected[f"queue{n_action_steps}.actions"])


@pytest.mark.parametrize("coeff", ["0.01", "0.0"])
def test_temporal_ensembling_equals_lerobots(
    policy: Policy, inputs: dict[str, Tensor], expected: dict[str, Tensor], coeff: str
) -> None:
    policy.temporal_ensemble_coeff = float(coeff)
    for _ in range(2):  # the second pass shows that reset() forgets the first
        policy.reset()
        assert_close(act_twelve_times(policy, inputs), expected[f"ensemble_{coeff}.actions"])


def test_ensembling_over_a_long_episode_equals_lerobots(inputs: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    ensemble = _Ensemble(0.01, 10)
    actions = [ensemble.next(chunk[None]) for chunk in inputs["syn_chunks"]]
    assert_close(torch.cat(actions), expected["syn_ensemble_0.01"])


def test_saving_and_loading_gives_the_same_files_and_answers(
    act_tiny: Path, policy: Policy, inputs: dict[str, Tensor], tmp_path: Path
) -> None:
    policy.save(tmp_path / "again")
    assert {p.name for p in (tmp_path / "again").iterdir()} == KEYS
    again = Policy.load(tmp_path / "again")
    assert torch.equal(policy.predict_chunk(observation(inputs)), again.predict_chunk(observation(inputs)))
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        assert json.loads((tmp_path / "again" / name).read_text()) == json.loads((act_tiny / name).read_text())
    before, after = load_file(act_tiny / "model.safetensors"), load_file(tmp_path / "again" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    # and every LeRobot since 0.4 parses the keys of the configuration
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    written_by_lerobot = json.loads((act_tiny / "config.json").read_text())
    for late in ("use_peft", "pretrained_path", "pretrained_revision"):
        del written_by_lerobot[late]
    assert saved == written_by_lerobot


def test_a_checkpoint_of_a_lerobot_training_is_read() -> None:
    layout = GOLDEN / "checkpoint_layout" / "pretrained_model"
    settings, act, shape = read_settings(layout)
    normalizer, _ = read_processors(layout, settings["normalization_mapping"], shape.sizes())
    assert (act.chunk_size, act.dim_feedforward, shape.cameras) == (100, 3200, {"color": (64, 96, 3)})
    statistics = normalizer.statistics()
    assert statistics["observation.images.color.mean"].flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert "timestamp.q99" in statistics  # unused ones are kept for saving


def test_the_properties_that_a_driver_needs(policy: Policy) -> None:
    assert policy.cameras == {"color": (64, 96, 3)}
    assert policy.chunk_size == 10
    assert policy.joint_names == [f"joint_{i}" for i in range(6)]
    assert (policy.fps, policy.action_meaning) == (None, None)


def test_untrained_weights_are_a_function_of_the_seed(policy: Policy, inputs: dict[str, Tensor]) -> None:
    one, same, other = (policy.with_random_weights(seed).predict_chunk(observation(inputs)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observation.images.color": None}, r"lacks observation\.images\.color"),
        (
            {"observation.state": np.zeros((3, 5))},
            r"observation\.state has shape \(3, 5\): this policy takes \(batch, 6\)",
        ),
        ({"observation.state": np.full((3, 6), np.nan)}, "not finite"),
        ({"observation.images.color": np.zeros((3, 64, 96, 3))}, "dtype float64"),
        ({"observation.images.color": np.zeros((3, 480, 640, 3), np.uint8)}, r"trained on \(3, 64, 96, 3\) uint8"),
        ({"observation.images.color": np.zeros((2, 64, 96, 3), np.uint8)}, r"has shape \(2, 64, 96, 3\)"),
    ],
)
def test_a_wrong_observation_is_refused(
    policy: Policy, inputs: dict[str, Tensor], change: dict[str, np.ndarray | None], words: str
) -> None:
    changed = {**observation(inputs), **change}
    with pytest.raises(UserError, match=words):
        policy.predict_chunk({key: value for key, value in changed.items() if value is not None})


@pytest.fixture
def broken(act_tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(act_tiny, tmp_path / "broken"))


@pytest.mark.parametrize("name", sorted(KEYS - {"train_config.json"}))
def test_a_truncated_or_missing_file_is_named(broken: Path, name: str) -> None:
    (broken / name).write_bytes((broken / name).read_bytes()[:-9])
    with pytest.raises(UserError, match=name):
        Policy.load(broken)
    (broken / name).unlink()
    with pytest.raises(UserError, match=name):
        Policy.load(broken)


BOTH = tuple(STATE_FILES.values())


@pytest.mark.parametrize(
    ("names", "key", "value", "words"),
    [
        (BOTH, "action.mean", None, r"lacks action\.mean"),
        (BOTH, "observation.state.std", None, r"lacks observation\.state\.std"),
        (BOTH, "observation.images.color.mean", None, r"lacks observation\.images\.color\.mean"),
        (BOTH, "action.std", torch.ones(7), r"action\.std has shape \(7,\), the policy needs \(6,\)"),
        (BOTH[:1], "action.mean", torch.full((6,), 9.0), "disagree on action"),
    ],
)
def test_wrong_normalization_is_refused_naming_the_statistic(
    broken: Path, names: tuple[str, ...], key: str, value: Tensor | None, words: str
) -> None:
    for name in names:
        tensors = load_file(broken / name) | {key: value}
        save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, broken / name)
    with pytest.raises(UserError, match=words):
        Policy.load(broken)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "diffusion"}, "type=diffusion: expected act"),
        ({"chunk_size": None}, "ACT policy"),
        ({"dim_model": 33}, "dim_model=33"),
        ({"n_decoder_layers": 2}, r"model\.decoder\.layers\.1.* is missing"),
    ],
)
def test_a_config_of_another_policy_or_other_weights_is_refused(
    broken: Path, change: dict[str, object], words: str
) -> None:
    settings = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(settings | change))
    with pytest.raises(UserError, match=words):
        Policy.load(broken)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_an_unavailable_device_is_refused(act_tiny: Path) -> None:
    with pytest.raises(UserError, match="no CUDA device"):
        Policy.load(act_tiny, device="cuda")


@pytest.fixture
def old(act_tiny: Path, tmp_path: Path) -> Path:
    """The golden checkpoint as LeRobot 0.3 laid it out: statistics among the weights and no processor files."""
    folder = tmp_path / "old" / "pretrained_model"
    folder.mkdir(parents=True)
    shutil.copy(act_tiny / "config.json", folder)
    weights = load_file(act_tiny / "model.safetensors")
    statistics = load_file(act_tiny / STATE_FILES[PREPROCESSOR])
    for owner, keys in (
        ("normalize_inputs", ("observation.state", "observation.images.color")),
        ("normalize_targets", ("action",)),
        ("unnormalize_outputs", ("action",)),
    ):
        for key in keys:
            for name in ("mean", "std"):
                weights[f"{owner}.buffer_{key.replace('.', '_')}.{name}"] = statistics[f"{key}.{name}"].clone()
    save_file(weights, folder / "model.safetensors")
    return folder


def test_a_checkpoint_of_lerobot_0_3_predicts_the_same(
    old: Path, inputs: dict[str, Tensor], expected: dict[str, Tensor], tmp_path: Path
) -> None:
    policy = Policy.load(old)
    assert_close(policy.predict_chunk(observation(inputs)), expected["eval.chunk"])
    policy.save(tmp_path / "now")  # in today's layout
    assert {p.name for p in (tmp_path / "now").iterdir()} == KEYS
    again = Policy.load(tmp_path / "now").predict_chunk(observation(inputs))
    assert_close(again, expected["eval.chunk"])


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("normalize_inputs.buffer_observation_state.mean", None, r"lacks observation\.state\.mean"),
        ("normalize_targets.buffer_action.std", torch.ones(6), r"buffers disagree on action\.std"),
        ("normalize_inputs.buffer_observation_state.std", torch.full((6,), torch.inf), "not finite"),
    ],
)
def test_damaged_statistics_of_lerobot_0_3_are_refused(name: str, change: Tensor | None, words: str, old: Path) -> None:
    weights = load_file(old / "model.safetensors")
    if change is None:
        del weights[name]
    else:
        weights[name] = change
    save_file(weights, old / "model.safetensors")
    with pytest.raises(UserError, match=words):
        Policy.load(old)


def test_weights_without_statistics_anywhere_are_refused(old: Path, act_tiny: Path) -> None:
    shutil.copy(act_tiny / "model.safetensors", old)
    with pytest.raises(UserError, match=r"policy_preprocessor\.json is missing"):
        Policy.load(old)


def test_the_deployed_network_has_its_batch_norms_folded(policy: Policy) -> None:
    network = policy.network
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.backbone.bn1.folded_weight is not None
    assert network.backbone.bn1.folded_weight.is_contiguous(memory_format=torch.channels_last)


def test_predicts_next_tells_when_the_network_runs(policy: Policy, inputs: dict[str, Tensor]) -> None:
    policy.n_action_steps = 3
    looked = []
    for i in range(7):
        looked.append(policy.predicts_next)
        policy.select_action(observation(inputs, slice(i, i + 1), "seq_"))
    assert looked == [True, False, False, True, False, False, True]
    policy.temporal_ensemble_coeff = 0.01
    assert policy.predicts_next

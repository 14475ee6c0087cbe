"""The two processor files of a `pretrained_model/` folder: normalization and renamed observations."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.act.normalization import Normalizer
from common.act.records import ProcessorFile, ProcessorStep
from common.cli.command import UserError, one_line
from common.cli.validation import validate
from common.lerobot.metadata import ACTION
from common.storage.files import read_json, write_json

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
STATE_FILES = {
    PREPROCESSOR: "policy_preprocessor_step_3_normalizer_processor.safetensors",
    POSTPROCESSOR: "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}


def read_processors(
    folder: Path, mapping: dict[str, str], sizes: dict[str, tuple[int, ...]]
) -> tuple[Normalizer, dict[str, str]]:
    """Return the normalization and the names that observations are renamed to.

    `mapping` is how features are normalized where the files do not say, and `sizes` are the shapes of their statistics.
    Raises UserError when files are missing, damaged or disagree.
    """
    before, after = (_read_processor(folder, name) for name in (PREPROCESSOR, POSTPROCESSOR))
    normalize, rename = before.step("normalizer_processor"), before.step("rename_observations_processor")
    statistics = _read_statistics(folder, PREPROCESSOR, normalize)
    output = _read_statistics(folder, POSTPROCESSOR, after.step("unnormalizer_processor"))
    for key in output:
        if key.startswith(f"{ACTION}.") and key in statistics and not torch.equal(output[key], statistics[key]):
            raise UserError(f"{folder}: the pre- and post-processor disagree on {key}; they come from two trainings")
    normalizer = Normalizer(statistics | output, normalize.config.norm_map or mapping, sizes, where=str(folder))
    return normalizer, rename.config.rename_map or {}


def write_processors(
    folder: Path, features: dict[str, object], normalizer: Normalizer, rename_map: dict[str, str]
) -> None:
    """Write both processors and the statistics of each."""
    for name, processor in _processors(features, normalizer.mapping, rename_map).items():
        write_json(folder / f"{name}.json", processor)
        save_file(normalizer.statistics(), folder / STATE_FILES[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; raises UserError when it is missing or damaged."""
    try:
        if not path.is_file():
            raise UserError(f"{path} is missing: the checkpoint is incomplete")
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {one_line(error)}") from error


def _read_processor(folder: Path, name: str) -> ProcessorFile:
    path = folder / f"{name}.json"
    if not path.is_file():
        raise UserError(f"{path} is missing: actions would be wrong without normalization statistics")
    return validate(ProcessorFile, read_json(path), f"{path} is damaged: ")


def _read_statistics(folder: Path, name: str, step: ProcessorStep) -> dict[str, Tensor]:
    if step.state_file is None or Path(step.state_file).name != step.state_file:
        raise UserError(f"{folder / name}.json names no state file beside it for the step that normalizes")
    return read_tensors(folder / step.state_file)


def _processors(features: dict[str, object], mapping: dict[str, str], rename_map: dict[str, str]) -> dict[str, object]:
    def normalizer(name: str, features: dict[str, object], state_file: str) -> dict[str, object]:
        config = {"eps": 1e-08, "features": features, "norm_map": mapping}
        return {"registry_name": name, "config": config, "state_file": state_file}

    # Always "cpu": LeRobot moves the step to the device it runs on, and a file from a GPU then loads anywhere.
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": rename_map}},
        {"registry_name": "to_batch_processor", "config": {}},
        device,
        normalizer("normalizer_processor", features, STATE_FILES[PREPROCESSOR]),
    ]
    action = {ACTION: features[ACTION]}
    after = [normalizer("unnormalizer_processor", action, STATE_FILES[POSTPROCESSOR]), device]
    return {
        PREPROCESSOR: {"name": PREPROCESSOR, "steps": before},
        POSTPROCESSOR: {"name": POSTPROCESSOR, "steps": after},
    }

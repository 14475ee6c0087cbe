"""The two processor files of a `pretrained_model/` folder in; normalization and renamed features out; and back to the files."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.act.normalization import Normalizer
from common.cli.command import UserError, one_line
from common.lerobot.dataset import ACTION
from common.storage.files import read_json, write_json

PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
STATE_FILES = {
    PREPROCESSOR: "policy_preprocessor_step_3_normalizer_processor.safetensors",
    POSTPROCESSOR: "policy_postprocessor_step_0_unnormalizer_processor.safetensors",
}

Processor = dict[str, dict[str, Any]]  # registry name of a step -> the step


def read_processors(
    folder: Path, mapping: dict[str, str], sizes: dict[str, tuple[int, ...]]
) -> tuple[Normalizer, dict[str, str]]:
    """Return the normalization, by `mapping` where the files name none, and what the observations are renamed to.

    `sizes` are the features'. Raises UserError when files are missing, damaged or disagree, and what a wrong structure gives:
    AttributeError, KeyError, TypeError or ValueError.
    """
    before, after = (_read_processor(folder, name) for name in (PREPROCESSOR, POSTPROCESSOR))
    statistics = _read_statistics(folder, PREPROCESSOR, before, "normalizer_processor")
    output = _read_statistics(folder, POSTPROCESSOR, after, "unnormalizer_processor")
    for key in output:
        if key.startswith(f"{ACTION}.") and key in statistics and not torch.equal(output[key], statistics[key]):
            raise UserError(f"{folder}: the pre- and post-processor disagree on {key}; they come from two trainings")
    mapping = before["normalizer_processor"]["config"].get("norm_map", mapping)
    renamed = before.get("rename_observations_processor", {}).get("config", {}).get("rename_map") or {}
    return Normalizer(statistics | output, mapping, sizes, where=str(folder)), dict(renamed)


def write_processors(
    folder: Path, features: dict[str, Any], normalizer: Normalizer, rename_map: dict[str, str]
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


def _read_processor(folder: Path, name: str) -> Processor:
    if not (folder / f"{name}.json").is_file():
        raise UserError(f"{folder / name}.json is missing: without its normalization the policy would answer nonsense")
    processor = read_json(folder / f"{name}.json")
    try:
        return {step["registry_name"]: step for step in processor["steps"]}
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / name}.json is damaged: {one_line(error)}") from error


def _read_statistics(folder: Path, name: str, processor: Processor, step: str) -> dict[str, Tensor]:
    state_file = processor.get(step, {}).get("state_file")
    if not isinstance(state_file, str) or Path(state_file).name != state_file:
        raise UserError(f"{folder / name}.json names no {step} with a state file beside it")
    return read_tensors(folder / state_file)


def _processors(features: dict[str, Any], mapping: dict[str, str], rename_map: dict[str, str]) -> dict[str, Any]:
    def normalizer(name: str, of: dict[str, Any]) -> dict[str, Any]:
        return {"registry_name": name, "config": {"eps": 1e-08, "features": of, "norm_map": mapping}}

    # Always "cpu": LeRobot moves the step to the device it runs on, and a file from a GPU then loads anywhere.
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": rename_map}},
        {"registry_name": "to_batch_processor", "config": {}},
        device,
        {**normalizer("normalizer_processor", features), "state_file": STATE_FILES[PREPROCESSOR]},
    ]
    action = {ACTION: features[ACTION]}
    after = [
        {**normalizer("unnormalizer_processor", action), "state_file": STATE_FILES[POSTPROCESSOR]},
        device,
    ]
    return {
        PREPROCESSOR: {"name": PREPROCESSOR, "steps": before},
        POSTPROCESSOR: {"name": POSTPROCESSOR, "steps": after},
    }

"""What `python -m osmo.local check` says about files: ours are accepted, and every mistake is named with what is right."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo.check.spec import RELEASES, check, check_releases
from osmo.check.template import read
from osmo.local.__main__ import main
from tests.osmo.conftest import OSMO, WORKFLOWS

CASES = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text())
GOOD, MISTAKES = CASES["good"], CASES["mistakes"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.sh").write_text("#!/bin/bash\necho ${#array[@]}\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    return tmp_path


def test_the_file_without_mistakes_is_accepted(folder: Path) -> None:
    (folder / "flow.yaml").write_text(GOOD)
    assert check_releases(folder / "flow.yaml", RELEASES, {}) == {release: [] for release in RELEASES}


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake["says"][:40])
def test_a_mistake_is_named_with_its_line_and_the_right_form(folder: Path, mistake: dict[str, Any]) -> None:
    assert mistake["right"] in GOOD
    (folder / "flow.yaml").write_text(GOOD.replace(mistake["right"], mistake["wrong"], 1))
    reporting = mistake.get("releases", RELEASES)
    for found in check_releases(folder / "flow.yaml", reporting, {}).values():
        assert mistake["line"] in [line for line, message in found if mistake["says"] in message], found
    if "6.4" in reporting and "6.1" not in reporting:  # what only later releases refuse
        assert check(folder / "flow.yaml", "6.1", {}) == []


def test_check_prints_which_releases_accept_a_file_and_why_others_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    blob = str(OSMO / "blob.yaml")
    assert main(["check", blob, "--set", "wandb=true"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("osmo/blob.yaml: fits OSMO 6.0, 6.1, 6.2, 6.3\n")
    assert re.search(r"osmo/blob.yaml:\d+: datasets are gone in 6.4: keep results with - url:.* \[6.4\]\n", printed)
    assert main(["check", blob, "--release", "6.4"]) == 2
    assert "OSMO 6.4 refuses it" in capsys.readouterr().out
    assert main(["check", blob, "--release", "6.4", "--set", "results=url"]) == 0


def test_a_template_without_default_values_would_not_be_rendered_before_6_4(folder: Path) -> None:
    text = (
        "workflow:\n  name: a\n  tasks:\n  # {% for i in [1] %}\n  - {name: a, image: a/b, command: [x], resource: r}\n"
    )
    (folder / "flow.yaml").write_text(text + "  # {% endfor %}\n  resources: {r: {cpu: 1}}\n")
    assert "add default-values:" in check(folder / "flow.yaml", "6.3", {})[0].message
    assert check(folder / "flow.yaml", "6.4", {}) == []
    (folder / "flow.yaml").write_text(text + "  # {% endfor %} {{output}}\n  resources: {r: {cpu: 1}}\n")
    assert check(folder / "flow.yaml", "6.3", {}) == []


# Every switch that a file documents, with what it may be; datasets (and localpath, which uploads one) end with 6.3.
SWITCHES: dict[str, list[Any]] = {
    "results": ["dataset", "url", "none"],
    "bags": ["url", "localpath"],
    "data": ["bags", "url", "dataset"],
    "eval_data": ["dataset", "url"],
    "auth": ["osmo", "sas"],
    "wandb": ["false", "true"],
    "shm": ["false", "true"],
    "state_url": ["", "azure://account/container/run1"],
    "platform": ["", "dgx-h100"],
    "nodes": [4, 1],
    "shards": [4, 1],
    "convert_overrides": ["", "data.fps=15"],
}
ENDS_WITH_6_3 = {("results", "dataset"), ("bags", "localpath"), ("data", "dataset"), ("eval_data", "dataset")}


def combinations(path: Path, bags: Path) -> list[dict[str, Any]]:
    names = [name for name in SWITCHES if name in read(path).defaults]
    product = itertools.product(*(SWITCHES[name] for name in names))
    local = {"bags_localpath": str(bags)} if "bags" in names else {}
    return [{**dict(zip(names, chosen, strict=True)), **local} for chosen in product]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_shipped_workflow_fits_the_releases_it_claims_with_every_switch(path: Path, tmp_path: Path) -> None:
    # Every switch and every pair of switches against the defaults; SOAK=1 tries every combination of all of them.
    defaults = read(path).defaults
    for values in combinations(path, tmp_path):
        changed = [name for name, value in values.items() if name in SWITCHES and value != defaults[name]]
        if len(changed) > 2 and not os.environ.get("SOAK"):
            continue
        old = {(name, value) for name, value in values.items() if str(value) and (name, value) in ENDS_WITH_6_3}
        if values.get("data", "bags") != "bags":
            old -= {("bags", "localpath")}
        for release, found in check_releases(path, ("6.0", "6.3", "6.4"), values).items():
            if release == "6.4" and old:
                assert found, values
                assert all("datasets are gone in 6.4" in message for _, message in found), (values, found)
            else:
                assert found == [], (release, values)


@pytest.mark.parametrize("path", [*WORKFLOWS, *OSMO.glob("config*.yaml"), OSMO / "convert.yaml"], ids=lambda p: p.name)
def test_the_raw_file_is_valid_yaml_without_duplicate_keys(path: Path) -> None:
    def walk(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}:{node.start_mark.line + 1}"
        for item in node.value if isinstance(node, yaml.CollectionNode) else ():
            for part in item if isinstance(item, tuple) else (item,):
                walk(part)

    walk(yaml.compose(path.read_text()))


def test_a_switch_accepts_only_its_documented_values() -> None:
    for path in WORKFLOWS:
        for name in {"results", "bags", "data", "auth", "wandb", "shm", "eval_data"} & read(path).defaults.keys():
            (finding,) = check(path, "6.3", {name: "perhaps"})
            assert f"# {name}:" in finding.message
            assert SWITCHES[name][0] in finding.message


def test_the_sweep_is_the_grid_of_three_learning_rates_and_two_kl_weights() -> None:
    arms = {arm["name"]: arm["overrides"] for arm in read(OSMO / "sweep.yaml").defaults["arms"]}
    assert list(arms) == [f"lr{lr}-kl{kl}" for kl in (10, 1) for lr in ("1e5", "5e5", "1e4")]
    for name, overrides in arms.items():
        lr, kl = name.removeprefix("lr").split("-kl")
        assert overrides == f"training.lr={lr.replace('e', 'e-')} training.kl_weight={kl}"


def test_the_configs_contain_only_differences_from_the_defaults() -> None:
    from common.cli.config import load, to_dict
    from stage1_convert.config import Config
    from stage2_train.config import TrainConfig

    plain = to_dict(load(TrainConfig, None))
    for name in ("config.yaml", "config-ddp.yaml"):
        for section, keys in yaml.safe_load((OSMO / name).read_text()).items():
            for key in keys:
                assert to_dict(load(TrainConfig, OSMO / name))[section][key] != plain[section][key], (name, key)
    assert load(TrainConfig, OSMO / "config-ddp.yaml").training.num_workers == 4
    assert load(TrainConfig, OSMO / "config.yaml").training.scheduler == "cosine"
    assert load(Config, OSMO / "convert.yaml") == load(Config, None)

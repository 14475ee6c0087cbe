"""What `python -m osmo.local check` says about files: ours are accepted, and every mistake is named with what is right."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo.check.spec import RELEASES, Finding, check_releases, refusals
from osmo.check.template import all_tasks, read
from osmo.local.__main__ import main
from tests.osmo.conftest import OSMO, WORKFLOWS

CASES = yaml.safe_load(Path(__file__).with_name("mistakes.yaml").read_text())
GOOD, MISTAKES = CASES["good"], CASES["mistakes"]


def check(path: Path, release: str, values: dict[str, Any]) -> list[Finding]:
    return check_releases(path, (release,), values)[release]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.sh").write_text("#!/bin/bash\necho ${#array[@]}\n")
    (tmp_path / "text").write_text("steps: 3\n")
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
    is_hint = mistake.get("hint", False)
    for found in check_releases(folder / "flow.yaml", reporting, {}).values():
        kinds = {
            finding.is_hint
            for finding in found
            if mistake["says"] in finding.message and finding.line == mistake["line"]
        }
        assert kinds == {is_hint}, found
    for release in RELEASES if is_hint else mistake.get("taken", ()):
        assert refusals(check(folder / "flow.yaml", release, {})) == []


@pytest.mark.parametrize("case", CASES["taken"], ids=lambda case: case["wrong"][:40])
def test_what_every_release_takes_is_taken_without_a_word(folder: Path, case: dict[str, str]) -> None:
    assert case["right"] in CASES["plain"]
    (folder / "flow.yaml").write_text(CASES["plain"].replace(case["right"], case["wrong"], 1))
    assert check_releases(folder / "flow.yaml", RELEASES, {}) == {release: [] for release in RELEASES}


def test_a_fixed_version_of_a_dataset_that_is_written_anew_is_no_mistake(folder: Path) -> None:
    text = CASES["plain"].replace("[bash]\n", "[bash]\n    outputs: [{dataset: {name: d}}]\n", 1)
    for name, hints in (("d:5", 0), ("d", 1)):
        (folder / "flow.yaml").write_text(
            text.replace("- task: one", "- dataset: {name: 'NAME'}".replace("NAME", name))
        )
        found = check(folder / "flow.yaml", "6.3", {})
        assert [finding.is_hint for finding in found] == [True] * hints


def test_a_value_of_set_needs_no_default_value_and_jinja_in_it_is_refused(folder: Path) -> None:
    (folder / "flow.yaml").write_text(
        CASES["plain"].replace("[bash]", "['{{ x }}{{ z }}']", 1) + "default-values: {x: 1}\n"
    )
    assert check(folder / "flow.yaml", "6.3", {"z": 1}) == []
    (refusal,) = check(folder / "flow.yaml", "6.3", {"x": "{{ y }}", "z": 1})
    assert "'y' is undefined" in refusal.message


def test_check_prints_which_releases_accept_a_file_and_why_others_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    blob = str(OSMO / "blob.yaml")
    assert main(["check", blob, "--set", "wandb=true"]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("osmo/blob.yaml: fits OSMO 6.0, 6.1, 6.2, 6.3\n")
    assert re.search(r"osmo/blob.yaml:\d+: datasets are gone in 6.4: keep results with - url:.* \[6.4\]\n", printed)
    assert main(["check", blob, "--set", "stepz=1", "--release", "6.3"]) == 0
    assert (
        "osmo/blob.yaml:1: hint: --set stepz: nothing in the workflow uses it; did you mean steps?"
        in capsys.readouterr().out
    )
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
}
# Values that add or leave out parts of a file, besides the default.
OTHERS: dict[str, Any] = {
    "state_url": "azure://account/container/run1",
    "platform": "dgx-h100",
    "nodes": 1,
    "shards": 1,
    "convert_overrides": "data.fps=15",
}
ENDS_WITH_6_3 = {("results", "dataset"), ("bags", "localpath"), ("data", "dataset"), ("eval_data", "dataset")}


def combinations(path: Path, bags: Path) -> list[dict[str, Any]]:
    """Return every combination of the switches of a file, each without and with the other values."""
    defaults = read(path).defaults
    switches = [name for name in SWITCHES if name in defaults]
    others = {name: value for name, value in OTHERS.items() if name in defaults}
    local = {"bags_localpath": str(bags)} if "bags" in switches else {}
    product = itertools.product(*(SWITCHES[name] for name in switches), ({}, others))
    return [{**dict(zip(switches, chosen, strict=True)), **more, **local} for *chosen, more in product]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_shipped_workflow_fits_the_releases_it_claims_with_every_switch(path: Path, tmp_path: Path) -> None:
    claim = re.search(
        r"^# Without changes for OSMO 6.0 to 6.3; for 6.0 to 6.4 with --set ([^.]*)\.", path.read_text(), re.MULTILINE
    )
    assert claim
    for settings in claim[1].replace("--set ", "").split(" or "):
        values = dict(pair.split("=") for pair in settings.split())
        assert not any(map(refusals, check_releases(path, RELEASES, values).values())), settings
    for values in combinations(path, tmp_path):
        old = ENDS_WITH_6_3 & set(values.items())
        if values.get("data", "bags") != "bags":  # then the bags are not read
            old -= {("bags", "localpath")}
        for release, found in check_releases(path, RELEASES, values).items():
            refused = refusals(found)
            if release == "6.4" and old:
                assert refused, values
                assert all("datasets are gone in 6.4" in finding.message for finding in refused), (values, found)
            else:
                assert refused == [], (release, values)
            assert all("nothing in the workflow uses it with" in hint.message for hint in found if hint.is_hint), (
                values,
                found,
            )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_with_bags_localpath_a_configuration_travels_as_a_text(path: Path, tmp_path: Path) -> None:
    template = read(path)
    names = [name for name in ("config", "convert_config") if f"{name}_text" in template.defaults]
    assert ("bags" in template.defaults) == ("convert_config" in names)
    for name in names:
        assert template.defaults[f"{name}_text"] == (OSMO / template.defaults[name]).read_text()
        values = {"bags": "localpath", "bags_localpath": str(tmp_path)}
        text = "# mine\n\ntraining:\n  lr: 1e-4\n"
        tasks = all_tasks(template.render({**values, f"{name}_text": text}).document)
        files = [file for task in tasks for file in task.get("files", ())]
        assert text in [file["contents"] for file in files]
        assert not [file for file in files if "localpath" in file]
        (finding,) = check(path, "6.3", {**values, name: "mine.yaml"})
        assert f'--set-string {name}_text="$(cat FILE)"' in finding.message
        assert refusals(check(path, "6.3", {**values, "bags": "url", name: template.defaults[name]})) == []
        assert any(f"--set {name}_text: nothing" in hint.message for hint in check(path, "6.3", {f"{name}_text": text}))


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


def test_the_configs_contain_only_differences_from_the_defaults() -> None:
    from common.cli.config import load
    from stage1_convert.config import Config
    from stage2_train.config import TrainConfig

    plain = load(TrainConfig, None).model_dump(mode="json")
    for name in ("config.yaml", "config-ddp.yaml"):
        own = load(TrainConfig, OSMO / name).model_dump(mode="json")
        for section, keys in yaml.safe_load((OSMO / name).read_text()).items():
            for key in keys:
                assert own[section][key] != plain[section][key], (name, key)
    assert load(TrainConfig, OSMO / "config-ddp.yaml").training.num_workers == 4
    assert load(TrainConfig, OSMO / "config.yaml").training.scheduler == "cosine"
    assert load(Config, OSMO / "convert.yaml") == load(Config, None)

"""What `python -m osmo.local check` says of files: ours are right, and every mistake is named with the right form."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo.spec import RELEASES, check, check_releases
from osmo.template import read
from tests.osmo.conftest import OSMO, WORKFLOWS

GOOD = """\
workflow:
  name: act
  timeout:
    exec_timeout: 24h
  resources:
    default:
      cpu: 8
      memory: 64Gi
      storage: 200Gi
  groups:
  - name: conversion
    tasks:
    - name: convert
      image: 192.168.1.100:5000/ur10e-act-train:latest
      command: [bash, -c]
      args: ['python -m stage1_convert --out "{{output}}/dataset"']
      inputs:
      - url: azure://account/container/bags
      outputs:
      - url: azure://account/container/lerobot
  - name: workers
    tasks:
    # {% for i in range(nodes) %}
    - name: "worker-{{ i }}"
      lead: "{{ 'true' if i == 0 else 'false' }}"
      image: 192.168.1.100:5000/ur10e-act-train:latest
      command: [bash, -c, "echo {{host:worker-0}} {{input:0}} {{input:convert}}"]
      environment:
        NODES: "{{ nodes }}"
      files:
      - path: /workspace/config.yaml
        contents: "a: 1"
      inputs:
      - task: convert
      exitActions:
        RESCHEDULE: 75
    # {% endfor %}
default-values:
  nodes: 2
"""

# What stands in GOOD, what somebody writes instead, the line on which it is named, what is said, and to which releases.
MISTAKES: list[tuple[str, str, int, str, tuple[str, ...]]] = [
    # the lines of the earlier guide
    ("192.168.1.100:5000/ur10e-act-train:latest\n      command: [bash, -c]", "ur10e-act-train:latest\n      command: [bash, -c]",
     14, "write its registry too: 192.168.1.100:5000/ur10e-act-train:latest", RELEASES),
    ("- url: azure://account/container/bags", "- localpath: ../../rosbag-to-lerobot/local_bags", 18,
     "bring a folder with osmo data upload azure://ACCOUNT/CONTAINER/PATH FOLDER and - url:", RELEASES),
    ("contents: \"a: 1\"", "localpath: folder", 31, "is a folder: files: takes one text file", RELEASES),
    ("  - name: workers\n    tasks:", "  - name: workers\n    count: 4\n    tasks:", 22, "there is no count; write the tasks with {% for", RELEASES),
    ("groups:\n  - name: conversion\n    tasks:", "groups:\n    workers:\n      count: 4\n  x:\n  - tasks:", 10, "groups is a list", RELEASES),
    ("      command: [bash, -c]\n", "", 13, "command is missing: expected a list", RELEASES),
    ('"{{output}}/dataset"', '"{{ output }}/dataset"', 16, "a token takes no spaces; write {{output}}", RELEASES),
    ("- url: azure://account/container/lerobot", "- dataset: {name: ur10e-act-checkpoint}", 20,
     "datasets are gone in 6.4: keep results with - url:", ("6.4",)),
    ("- url: azure://account/container/bags", "- dataset: {name: bags, localpath: folder}", 18,
     "datasets are gone in 6.4: osmo data upload azure://ACCOUNT/CONTAINER/bags folder", ("6.4",)),
    ('name: "worker-{{ i }}"', 'name: "lr1e-5.kl10-{{ i }}"', 24, "a letter first and no dot, such as train-lr1e5-kl10", RELEASES),
    ("- task: convert", "- url: azure://account/container/lerobot", 34, "is written by convert, which does not make worker-0 wait; write - task: convert", RELEASES),
    ("- url: azure://account/container/bags", "- url: https://account.blob.core.windows.net/container/bags", 18,
     "expected azure://ACCOUNT/CONTAINER[/PATH]", RELEASES),
    # the form of the file
    ("default-values:", "labels: {a: b}\ndefault-values:", 38, "unknown top-level key labels", ("6.2", "6.3", "6.4")),
    ("  name: act\n", "  name: act\n  labels: {team: arm}\n", 3, "labels: came with 6.4", ("6.0", "6.1", "6.2", "6.3")),
    ("name: act\n", "name: 7act\n", 2, "a letter first", RELEASES),
    ("exec_timeout: 24h", "exec_timeout: 10h5m", 4, "one whole number with one unit, such as 24h", RELEASES),
    ("exec_timeout: 24h", "exec_timeout: 1.5h", 4, "one whole number with one unit", RELEASES),
    ("exec_timeout: 24h", "exec_timeout: PT24H", 4, "ISO 8601 came with 6.3", ("6.0", "6.1", "6.2")),
    ("memory: 64Gi", "memory: 64 GB", 8, "without a space, such as 64Gi", RELEASES),
    ("memory: 64Gi", "memory: 64GB", 8, "such as 64Gi", RELEASES),
    ("cpu: 8", "cpu: 0.5", 7, "expected a whole number", ("6.3", "6.4")),
    ("cpu: 8", "cpu: 8\n      topology: [{key: rack}]", 8, "topology came with 6.2", ("6.0", "6.1")),
    ("  resources:\n    default:", "  resources:\n    gpu:", 24, "resource default is not under workflow: resources: (there: gpu)", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      resources: {gpu: 4}\n", 16, "OSMO drops a task's own resources in silence", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      dependsOn: [a]\n", 16, "tasks are ordered by inputs: - task: NAME", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      retries: 3\n", 16, "exitActions: {RESCHEDULE: 75}", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      secrets: [a]\n", 16, "secrets are credentials:", RELEASES),
    ("      command: [bash, -c]\n", "      command: [bash, -c]\n      credential: {a: /b}\n", 16, "did you mean credentials?", RELEASES),
    ("      command: [bash, -c]\n", "      command: bash -c\n", 15, "such as command: [bash, -c]", RELEASES),
    ("args: ['python -m stage1_convert --out \"{{output}}/dataset\"']", "args: [true]", 16, 'write true and false as "true" and "false"', ("6.3", "6.4")),
    ("      outputs:\n      - url: azure://account/container/lerobot\n", "      outputs:\n", 19, "put the whole key inside the {% if %}", RELEASES),
    ("- url: azure://account/container/lerobot", "- {url: azure://account/container/lerobot, path: /output}", 20, "there is no path here; write below {{output}}", RELEASES),
    ("- url: azure://account/container/lerobot", "- {url: azure://account/container/lerobot, regex: 'a{1,2}'}", 20, "an output's takes no comma", RELEASES),
    ("- url: azure://account/container/lerobot", "- url: azure://account", 20, "expected azure://ACCOUNT/CONTAINER[/PATH]", RELEASES),
    ("- url: azure://account/container/bags", "- dataset: bags", 18, "dataset: expected {name: NAME}", ("6.0", "6.3")),
    ("- url: azure://account/container/bags", "- dataset: {name: bags, localpath: nowhere}", 18, "nowhere does not exist", ("6.0", "6.3")),
    ("- url: azure://account/container/bags", "- dataset: {name: 'bags:3', localpath: folder}", 18, "takes no :tag", ("6.0", "6.3")),
    ("RESCHEDULE: 75", "RESTART: 75", 35, "write RESCHEDULE", RELEASES),
    ("RESCHEDULE: 75", "RESCHEDULE: 75 to 80", 36, "such as RESCHEDULE: 75,3001-3006", RELEASES),
    ("- path: /workspace/config.yaml", "- path: /osmo/config.yaml", 31, "that is not below /osmo", RELEASES),
    ("      - path: /workspace/config.yaml", "      - {path: /workspace/config.yaml, contents: b}\n      - path: /workspace/config.yaml", 32, "is given twice", RELEASES),
    ("contents: \"a: 1\"", "localpath: nowhere.yaml", 31, "does not exist; it is relative to the folder of the workflow file", RELEASES),
    ("contents: \"a: 1\"", "localpath: script.sh", 31, "holds {# in line 2, which the server renders as Jinja", RELEASES),
    ("contents: \"a: 1\"", "localpath: binary", 31, "is not one UTF-8 text file", RELEASES),
    # what spans the file
    ("name: convert\n", "name: worker_0\n", 24, "task worker-0 and task worker_0 share a name", RELEASES),
    ("name: conversion", "name: Convert", 13, "task convert and group Convert share a name", RELEASES),
    ("- task: convert", "- task: konvert", 34, "no such task; known: convert", RELEASES),
    ("- task: convert", "- task: worker-1", 34, "is in the same group", RELEASES),
    ("- url: azure://account/container/bags", "- task: worker-0", 18, "comes later in the file", RELEASES),
    ("'true' if i == 0 else 'false'", "'true'", 21, "group workers has 2 leads: exactly one", RELEASES),
    ("'true' if i == 0 else 'false'", "'false'", 21, "group workers has 0 leads: exactly one", RELEASES),
    ("nodes: 2", "nodes: 20", 1, "21 tasks: a workflow has at most 20", RELEASES),
    ("{{input:0}}", "{{input:1}}", 27, "the task has 1 inputs, counted from 0", RELEASES),
    ("{{input:convert}}", "{{input:train}}", 27, "train is no input task of worker-0", RELEASES),
    ("{{host:worker-0}}", "{{host:convert}}", 27, "a host is known in its own group only", RELEASES),
    ("{{host:worker-0}}", "{{uuid}}", 27, "use {{workflow_id}}", RELEASES),
    ("nodes: 2", "nodes: 2\n  path: '{{ nodes }}'", 1, "default-values are not rendered themselves: path", RELEASES),
    ("  name: act\n", "  name: act\n  name: act2\n", 3, "name is given twice", RELEASES),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "script.sh").write_text("#!/bin/bash\necho ${#array[@]}\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    return tmp_path


@pytest.mark.parametrize("release", RELEASES)
def test_the_file_that_the_mistakes_are_made_in_is_right(folder: Path, release: str) -> None:
    (folder / "flow.yaml").write_text(GOOD)
    assert check(folder / "flow.yaml", release, {}) == []


@pytest.mark.parametrize(("right", "wrong", "line", "words", "releases"), MISTAKES, ids=[m[3][:40] for m in MISTAKES])
def test_a_mistake_is_named_with_its_line_and_the_right_form(
    folder: Path, right: str, wrong: str, line: int, words: str, releases: tuple[str, ...]
) -> None:
    assert right in GOOD
    (folder / "flow.yaml").write_text(GOOD.replace(right, wrong, 1))
    for found in check_releases(folder / "flow.yaml", releases, {}).values():
        assert any(words in message for _, message in found), found
        assert line in [number for number, message in found if words in message]


def test_what_only_later_releases_refuse_earlier_ones_take(folder: Path) -> None:
    for right, wrong, _, words, releases in MISTAKES:
        (folder / "flow.yaml").write_text(GOOD.replace(right, wrong, 1))
        if releases in (("6.4",), ("6.3", "6.4"), ("6.2", "6.3", "6.4")):
            assert check(folder / "flow.yaml", "6.1", {}) == [], words


def test_a_template_without_default_values_would_not_be_rendered_before_6_4(folder: Path) -> None:
    text = (
        "workflow:\n  name: a\n  tasks:\n  # {% for i in [1] %}\n  - {name: a, image: a/b, command: [x], resource: r}\n"
    )
    (folder / "flow.yaml").write_text(text + "  # {% endfor %}\n  resources: {r: {cpu: 1}}\n")
    assert "add default-values:" in check(folder / "flow.yaml", "6.3", {})[0].message
    assert check(folder / "flow.yaml", "6.4", {}) == []


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
    return [{**dict(zip(names, chosen, strict=True)), **({"bags_localpath": str(bags)} if "bags" in names else {})} for chosen in product]  # fmt: skip


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_shipped_workflow_fits_the_releases_it_claims_with_every_switch(path: Path, tmp_path: Path) -> None:
    # Each switch alone against the defaults, and every pair of two: a fault of a switch shows in one of them.
    defaults = read(path).defaults
    for values in combinations(path, tmp_path):
        changed = [name for name, value in values.items() if name in SWITCHES and value != defaults[name]]
        if len(changed) > 2:
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
def test_the_raw_file_is_valid_yaml_without_a_key_given_twice(path: Path) -> None:
    def walk(node: yaml.Node | None) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"{path}:{node.start_mark.line + 1}"
        for item in node.value if isinstance(node, yaml.CollectionNode) else ():
            for part in item if isinstance(item, tuple) else (item,):
                walk(part)

    walk(yaml.compose(path.read_text()))


def test_a_switch_takes_only_what_it_may_be() -> None:
    for path in WORKFLOWS:
        for name in {"results", "bags", "data", "auth", "wandb", "shm", "eval_data"} & read(path).defaults.keys():
            (finding,) = check(path, "6.3", {name: "perhaps"})
            assert f"# {name}:" in finding.message
            assert SWITCHES[name][0] in finding.message


def test_the_sweep_is_the_grid_of_three_learning_rates_and_two_kl_weights() -> None:
    arms = {arm["name"]: arm["overrides"] for arm in read(OSMO / "sweep.yaml").defaults["arms"]}
    assert list(arms) == [f"lr{lr}-kl{kl}" for kl in (10, 1) for lr in ("1e5", "5e5", "1e4")]
    assert arms["lr5e5-kl1"] == "training.lr=5e-5 training.kl_weight=1"


def test_the_configs_hold_what_differs_from_the_defaults_and_nothing_else() -> None:
    from common.config import load, to_dict
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

"""Every shipped workflow runs to its end: the file that users submit, on two bags, with a tiny network."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from common.storage.files import describe_folder
from osmo.local.__main__ import restart, run
from osmo.local.runner import Result
from tests.conftest import ROOT, SharedFolders, run_readme_block
from tests.demo.test_demo import run_demo
from tests.osmo.conftest import OSMO, TINY, log_of, output_of, running, start, wait_for

pytestmark = pytest.mark.integration

CONVERT_CONFIG = "../demo/convert.yaml"
TOY: dict[str, Any] = {"steps": 2, "warmup_steps": 1, "train_overrides": TINY}
EVAL: dict[str, Any] = {"eval_device": "cpu", "eval_episodes": "val"}


@pytest.fixture(scope="module", autouse=True)
def one_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """All runs of a worker share one cache of decoded images, which is not that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def completed(result: Result) -> Result:
    logs = {name: log_of(result, name).read_text() for name in result.tasks if log_of(result, name).exists()}
    assert result.status == "completed", logs
    return result


@pytest.fixture
def readme_results(shared: SharedFolders) -> Path:
    """A folder in which the README's commands were run: bags, and convert-train-eval.yaml on them."""
    return shared.get("osmo-readme", lambda folder: run_readme_block(ROOT / "docs" / "cluster.md", folder))


@pytest.fixture
def bags(shared: SharedFolders) -> Path:
    """The bags of the demo."""
    return shared.get("demo", run_demo) / "out" / "bags"


@pytest.fixture
def dataset(shared: SharedFolders) -> Path:
    """What the demo's workflow made of these bags."""
    return shared.get("demo", run_demo) / "out" / "workflow" / "convert" / "output" / "dataset"


def config_of(run_folder: Path) -> Any:
    return json.loads((run_folder / "checkpoint_000002/pretrained_model/train_config.json").read_text())["config"]


@pytest.mark.slow
def test_the_chain_keeps_each_result_as_a_dataset_under_its_documented_name(readme_results: Path) -> None:
    kept = readme_results / "chain" / "datasets"
    assert (kept / "ur10e-lerobot" / "dataset" / "meta" / "info.json").is_file()
    assert (kept / "ur10e-act-checkpoint/train-rosbag-act/checkpoint_000002/pretrained_model/config.json").is_file()
    assert {"episode_000.parquet", "episode_001.parquet", "all_episodes.parquet"} <= {
        path.name for path in (kept / "ur10e-eval-results").iterdir()
    }
    config = config_of(kept / "ur10e-act-checkpoint/train-rosbag-act")
    assert config["model"]["dim_model"] == 128  # from demo/train.yaml
    assert (config["training"]["steps"], config["training"]["warmup_steps"]) == (2, 1)  # from --set


def test_shards_merge_into_the_dataset_of_one_machine(dataset: Path, bags: Path, tmp_path: Path) -> None:
    values = {"shards": 2, "results": "url", "results_url": "azure://acct/results", "convert_config": CONVERT_CONFIG}
    values |= {"account": "a", "container": "b", "prefix": "c"}
    result = completed(run(OSMO / "convert-sharded.yaml", values, tmp_path / "work", {"azure://a/b/c": bags}))
    assert list(result.tasks) == ["convert-0", "convert-1", "merge"]
    merged = tmp_path / "work/urls/azure/acct/results/ur10e-convert-1/merge/dataset"
    assert data_of(merged) == data_of(dataset)


def data_of(dataset: Path) -> dict[str, Any]:
    return {
        name: facts for name, facts in describe_folder(dataset).items() if name.startswith(("data/", "meta/episodes"))
    }


@pytest.mark.slow
def test_an_uploaded_dataset_is_evaluated_by_train_eval(dataset: Path, tmp_path: Path) -> None:
    maps = {"azure://a/lerobot": dataset, "ur10e-eval-dataset": dataset}
    values = {**TOY, "eval_episodes": "0 1", "eval_device": "cpu", "data": "url", "dataset_url": "azure://a/lerobot"}
    result = completed(run(OSMO / "train-eval.yaml", values, tmp_path / "work", maps))
    assert list(result.tasks) == ["train-act", "eval-act"]
    names = {path.name for path in (tmp_path / "work" / "datasets" / "ur10e-eval-results").iterdir()}
    assert {"episode_000.parquet", "episode_001.parquet", "all_episodes.parquet"} <= names


@pytest.mark.slow
def test_ddp_trains_on_two_nodes_that_meet_at_the_lead(dataset: Path, tmp_path: Path) -> None:
    values = {**TOY, "nodes": 2, "data": "dataset", "results": "none"}
    maps = {"ur10e-lerobot": dataset}
    result = completed(run(OSMO / "train-ddp.yaml", values, tmp_path / "work", maps))
    assert list(result.tasks) == ["train-act", "worker-1"]
    training = config_of(output_of(result, "train-act") / "train-rosbag-act")["training"]
    assert (training["num_workers"], training["scheduler"]) == (4, "cosine")  # from config-ddp.yaml
    assert "x 2 processes" in log_of(result, "train-act").read_text()
    assert not any(output_of(result, "worker-1").iterdir())  # a worker's output would be uploaded too


@pytest.mark.slow
def test_a_sweep_of_two_arms_ends_in_their_comparison(bags: Path, tmp_path: Path) -> None:
    arms = [
        {"name": "lr1e4-kl10", "overrides": "training.lr=1e-4 training.kl_weight=10"},
        {"name": "lr1e4-kl1", "overrides": "training.lr=1e-4 training.kl_weight=1"},
    ]
    texts = {"config_text": "training: {seed: 7}\ndata: {fps: 15}\n", "convert_config_text": "data: {fps: 15}\n"}
    values = {**TOY, **EVAL, "arms": arms, "bags": "localpath", "bags_localpath": str(bags), **texts}
    result = completed(run(OSMO / "sweep.yaml", values, tmp_path / "work"))
    assert list(result.tasks) == ["convert", "train-lr1e4-kl10", "train-lr1e4-kl1", "compare"]
    for arm in ("lr1e4-kl10", "lr1e4-kl1"):
        config = config_of(tmp_path / "work" / "datasets" / f"ur10e-act-sweep-{arm}" / "train-rosbag-act")
        assert config["training"]["seed"] == 7  # from config_text
        assert config["training"]["kl_weight"] == float(arm.rpartition("kl")[2])
        assert (config["wandb"]["run_name"], config["wandb"]["tags"]) == (f"sweep-{arm}", ["osmo", "sweep"])
    comparison = (tmp_path / "work" / "datasets" / "ur10e-act-sweep" / "comparison.csv").read_text()
    assert "lr1e4-kl10" in comparison


def test_a_killed_training_resumes_from_its_url_after_restart(dataset: Path, tmp_path: Path) -> None:
    maps = {"azure://a/lerobot": dataset, "azure://a/state": tmp_path / "state"}
    values = {
        **TOY, "steps": 12, "train_overrides": f"{TINY} training.save_freq=4", "data": "url", "results": "none",
        "dataset_url": "azure://a/lerobot", "state_url": "azure://a/state", "state_every": "100ms",
    }  # fmt: skip
    pairs = [f"{key}={folder}" for key, folder in maps.items()]
    settings = [f"{key}={value}" for key, value in values.items()]
    process = start("run", OSMO / "train.yaml", "--work", tmp_path / "work", "--map", *pairs, "--set", *settings)
    wait_for(tmp_path / "state/train-rosbag-act/checkpoint_000004/manifest.json", process)
    for pid in running("-m\0stage2_train", str(tmp_path)):
        os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert "train-act failed with exit code 137; the end of" in errors
    (tmp_path / "work" / "train-act" / "root").rename(tmp_path / "lost-with-the-machine")
    result = completed(restart(tmp_path / "work"))
    text = log_of(result, "train-act").read_text()
    assert "restored checkpoint_0000" in text
    metrics = output_of(result, "train-act") / "train-rosbag-act" / "metrics.jsonl"
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 13))

"""The launcher within a task: finding, restoring and copying; exit codes and signals past torchrun."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.cli.command import TransientError, UserError
from osmo.task.launch import copy_run, find, main, restore, training_exit_code, wait_for_host
from tests.conftest import GOLDEN, ROOT
from tests.stage2_train.tiny import TINY, write_dataset

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("torchrun", "ranks", "was_stopped", "expected"),
    [
        (0, [0, 0], False, 0),
        (1, [75, 75], False, 75),
        (1, [75, 75], True, 75),
        (1, [1, 75], False, 1),  # the rank that failed is the cause, not the one that was stopped because of it
        (1, [2, 75], False, 2),
        (1, [75, None], False, 137),  # killed: out of memory, most likely
        (1, [None, None], True, 75),  # stopped before they had begun
        (1, [], False, 1),  # torchrun itself failed
    ],
)
def test_the_exit_code_of_a_training_is_that_of_the_rank_that_failed(
    torchrun: int, ranks: list[int | None], was_stopped: bool, expected: int
) -> None:
    assert training_exit_code(torchrun, ranks, was_stopped) == expected


def test_a_dataset_is_found_where_osmo_puts_it(tmp_path: Path) -> None:
    for inner in ("", "dataset", "ur10e-lerobot/dataset"):
        folder = tmp_path / (inner.replace("/", "-") or "itself")
        (folder / inner / "meta").mkdir(parents=True)
        (folder / inner / "meta" / "info.json").touch()
        assert find(folder, "meta/info.json", "a dataset") == folder / inner
    (tmp_path / "second" / "meta").mkdir(parents=True)
    (tmp_path / "second" / "meta" / "info.json").touch()
    with pytest.raises(UserError, match="more than once"):
        find(tmp_path, "meta/info.json", "a dataset")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no meta/info.json in .*empty: expected a dataset, found nothing"):
        find(tmp_path / "empty", "meta/info.json", "a dataset")


def test_a_run_is_restored_from_its_url_unless_it_is_still_there(tmp_path: Path) -> None:
    state, run = tmp_path / "state", tmp_path / "run"
    state.mkdir()
    restore(state, run)
    assert not run.exists()  # the first start finds nothing, which is no mistake
    (state / "checkpoint_000002").mkdir()
    restore(state, run)
    assert (run / "checkpoint_000002").is_dir()
    (run / "checkpoint_000004").mkdir()
    (state / "checkpoint_000003").mkdir()
    restore(state, run)
    assert not (run / "checkpoint_000003").exists()


def test_a_run_is_copied_without_links_and_temporaries(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoint_000002").mkdir(parents=True)
    (run / ".tmp-checkpoint_000004-1").mkdir()
    (run / "last").symlink_to("checkpoint_000002")
    (run / "metrics.jsonl").touch()
    copy_run(run, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["checkpoint_000002", "metrics.jsonl"]


def test_a_host_that_cannot_be_resolved_is_a_temporary_failure() -> None:
    wait_for_host("localhost", 0)
    with pytest.raises(
        TransientError, match=r"the name of the lead, no-such-host.invalid, cannot be resolved after 0 s"
    ):
        wait_for_host("no-such-host.invalid", 0)


def test_a_bags_argument_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a folder; is it the task's input\?"):
        main(["convert", "--bags", str(tmp_path / "nowhere"), "--to", str(tmp_path)])


def test_numbers_in_the_environment_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNODES", "four")
    words = ["train", "--dataset", str(GOLDEN / "dataset_image"), "--to", str(tmp_path)]
    with pytest.raises(UserError, match="NNODES=four: expected a whole number"):
        main(words)


def test_a_machine_without_a_gpu_trains_on_its_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "train-rosbag-act"
    for name, value in {"GPUS": "0", "CONFIG_FILE": "/dev/null", "OUTPUT_DIR": str(run)}.items():
        monkeypatch.setenv(name, value)
    words = ["--dataset", write_dataset(tmp_path / "dataset"), "--to", tmp_path / "output", "--override", *TINY]
    assert main(["train", *map(str, words)]) == 0
    assert (run / "checkpoint_000012").is_dir()


def test_sigterm_while_waiting_for_the_lead_is_a_temporary_failure(tmp_path: Path) -> None:
    environment = {**os.environ, "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "no-such-host.invalid"}
    words = ["train", "--dataset", str(GOLDEN / "dataset_image"), "--to", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "osmo.launch", *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        first = process.stderr.readline()
        process.terminate()
        assert process.wait(timeout=60) == 75
    assert "waiting for the name of the lead" in first


@contextmanager
def launched(tmp_path: Path, *overrides: str) -> Iterator["subprocess.Popen[str]"]:
    """A training of two processes under the launcher, as a task starts it."""
    (tmp_path / "config.yaml").write_text("training: {scheduler: cosine, warmup_steps: 1}\n")
    environment = {
        **os.environ,
        "GPUS": "2",
        "CONFIG_FILE": str(tmp_path / "config.yaml"),
        "OUTPUT_DIR": str(tmp_path / "train-rosbag-act"),
    }
    settings = [f"data.cache_dir={tmp_path / 'cache'}", *TINY, *overrides]
    words = ["--dataset", write_dataset(tmp_path / "dataset"), "--to", tmp_path / "output", "--override", *settings]
    with (tmp_path / "log.txt").open("w") as log:
        command = [sys.executable, "-m", "osmo.launch", "train", *map(str, words)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_sigterm_saves_in_every_rank_and_the_exit_code_passes_torchrun(tmp_path: Path) -> None:
    with launched(tmp_path, "training.steps=100000", "training.save_freq=100000") as process:
        metrics = tmp_path / "train-rosbag-act" / "metrics.jsonl"
        end = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text()):
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 75, (tmp_path / "log.txt").read_text()
    (saved,) = (tmp_path / "train-rosbag-act").glob("checkpoint_*")
    assert (tmp_path / "output" / "train-rosbag-act" / saved.name / "pretrained_model").is_dir()


def test_a_user_error_passes_torchrun_as_exit_code_2(tmp_path: Path) -> None:
    with launched(tmp_path, "training.stepz=1") as process:
        assert process.wait(timeout=120) == 2, (tmp_path / "log.txt").read_text()
    assert "did you mean training.steps?" in (tmp_path / "log.txt").read_text()

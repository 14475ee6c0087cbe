"""A process that dies does not leave the others waiting: the training ends within a minute and says why once."""

import signal
import time
from pathlib import Path

from common.command import EXIT_TRANSIENT
from tests.promises.harness import Warm
from tests.stage2_train.tiny import finish, metrics, start, stderr, write_dataset


def test_the_others_end_when_one_dies(warm: Warm, tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    args = ("training.steps=100000", "training.save_freq=100000", "training.log_freq=5")
    commands = start(warm, dataset, out, *args, world_size=2)
    while not (out / "metrics.jsonl").is_file() or len(metrics(out)) < 2:
        time.sleep(0.01)
    died = time.monotonic()
    commands[1].signal(signal.SIGKILL)
    assert finish(commands, 60) == [EXIT_TRANSIENT, -signal.SIGKILL], stderr(out)
    assert time.monotonic() - died < 60
    (line,) = [line for line in stderr(out).splitlines() if "lost another process" in line]
    assert line.startswith("error (may pass; run the same command again): rank 0 lost another process of the training")
    assert "Traceback" not in stderr(out)

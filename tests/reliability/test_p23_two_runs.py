"""Two trainings cannot mix in one folder: the second refuses and names the process that has it."""

from pathlib import Path

from common.cli.command import EXIT_USER
from tests.reliability.harness import Warm
from tests.stage2_train.tiny import finish, metrics, start, stderr, write_dataset


def test_the_second_run_names_the_first(warm: Warm, tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "out"
    (first,) = start(warm, dataset, out, "training.steps=100000", "training.save_freq=100000")
    first.wait_for(lambda: metrics(out))
    assert finish(start(warm, dataset, out)) == [EXIT_USER]
    assert f"{out} is in use by process {first.pid} on " in stderr(out)
    assert not first.ends_within(0)
    first.signal()  # nothing is left that would keep the next one out
    finish([first])
    assert finish(start(warm, dataset, out, "training.steps=4")) == [0], stderr(out)

"""Exceptions of a command become one line and an exit code."""

import errno
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from common.cli.command import Parser, TransientError, UserError, progress, run
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no bag in\n /data: record one"), 2, "error: no bag in /data: record one\n"),
        (
            TransientError("the network is down"),
            75,
            "error (temporary; run the same command again): the network is down\n",
        ),
        (KeyboardInterrupt(), 130, "stopped; run the same command again to continue\n"),
        (
            OSError(errno.ENOSPC, "No space left", "/data/x"),
            2,
            "error: /data/x: No space left on device; free some space and run again\n",
        ),
        (
            OSError(errno.EROFS, "Read-only", "/data/x"),
            2,
            "error: /data/x: Read-only file system; choose a path on a writable file system\n",
        ),
        (
            OSError(errno.EEXIST, "File exists", "/data/x"),
            2,
            "error: /data/x: File exists; choose another path\n",
        ),
    ],
)
def test_an_expected_failure_is_one_line_and_its_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str] | None) -> int:
        raise error

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as leaving:
        run(main)
    signal.signal(signal.SIGINT, before)
    assert leaving.value.code == code
    assert capsys.readouterr().err == line


def test_an_internal_error_keeps_its_traceback() -> None:
    def main(_: Sequence[str] | None) -> int:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        run(main)


def test_a_wrong_flag_is_one_line_naming_it() -> None:
    with pytest.raises(UserError, match="--nonsense"):
        Parser("stage").parse_args(["--nonsense"])


def test_progress_passes_every_item_through() -> None:
    assert list(progress(iter(range(5)), 5, "counting")) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("note", "end"), [("loss 0.5", "left, loss 0.5"), ("", "left")])
def test_progress_with_a_note_counts_on_from_what_was_done_and_logs_the_end(
    note: str, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert list(progress(range(3, 5), 5, "training", "step", done=3, note=lambda: note)) == [3, 4]
    (line,) = caplog.messages
    assert line.startswith("training: 5 of 5, ")
    assert line.endswith(f" step/s, about 0 s {end}")


def test_a_closed_pipe_is_no_error() -> None:
    script = "from common.cli.command import run\nrun(lambda _: print(*range(10**5), sep='\\n') or 0)"
    command = f'{sys.executable} -c "{script}" | head -n 1'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")

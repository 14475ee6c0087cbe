"""The state of every task in; a table that redraws itself on a terminal, in a log a line per change and now and then the
last line of what runs, and a final table."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import NamedTuple, TextIO

from common.cli.command import LOG_PERIOD_S

WAITING, RUNNING, COMPLETED, FAILED = "waiting", "running", "completed", "failed"
UPSTREAM, STOPPED, TIMED_OUT, AGAIN = "upstream failed", "stopped", "timed out", "starting again"


class Row(NamedTuple):
    """What is known of a task."""

    status: str
    exit_code: int | None
    seconds: float
    tries: int
    note: str  # the last line of its log, or its folder at the end


class StatusTable:
    """Shows rows as they change."""

    def __init__(self, known: Mapping[str, Row]) -> None:
        self._out: TextIO = sys.stderr
        self._live = self._out.isatty()
        self._drawn, self._last_s = 0, 0.0
        self._said = {name: (row.status, row.tries) for name, row in known.items()}

    def show(self, rows: Mapping[str, Row]) -> None:
        """Redraw the table, about four times a second, or say what has changed."""
        if self._live:
            if time.monotonic() - self._last_s >= 0.25:
                self._draw(rows)
            return
        for name, row in rows.items():
            if self._said.get(name, (WAITING, 0)) != (row.status, row.tries):
                self._said[name] = (row.status, row.tries)
                self._line(f"{time.strftime('%H:%M:%S')} {name} {_sentence(row)}")
        if time.monotonic() - self._last_s >= LOG_PERIOD_S:
            self._last_s = time.monotonic()
            for name, row in rows.items():
                if row.status == RUNNING and row.note:
                    self._line(f"{name}: {row.note}")

    def finish(self, rows: Mapping[str, Row]) -> None:
        """Show how everything ended."""
        if self._live:
            self._draw(rows)
            return
        self.show(rows)
        for line in table(rows, None):
            self._line(line)

    def _draw(self, rows: Mapping[str, Row]) -> None:
        lines = table(rows, shutil.get_terminal_size().columns)
        up = f"\x1b[{self._drawn}F" if self._drawn else ""
        self._out.write(up + "".join(f"\x1b[2K{line}\n" for line in lines))
        self._out.flush()
        self._drawn, self._last_s = len(lines), time.monotonic()

    def _line(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()


def table(rows: Mapping[str, Row], width: int | None) -> list[str]:
    """Return the table's lines, cut to a terminal's width."""
    longest = max(map(len, [*rows, "task"]))
    lines = [f"{'task':{longest}}  {'status':15}  {'code':>4}  {'time':>8}  last line"]
    for name, row in rows.items():
        code = "" if row.exit_code is None else str(row.exit_code)
        spent = f"{row.seconds:.0f} s" if row.seconds < 3600 else f"{row.seconds / 3600:.1f} h"
        lines.append(f"{name:{longest}}  {row.status:15}  {code:>4}  {spent:>8}  {row.note}")
    return [line[: width - 1] if width else line for line in lines]


def _sentence(row: Row) -> str:
    if row.status == RUNNING:
        return "started" if row.tries == 1 else f"started, try {row.tries}"
    if row.status in (COMPLETED, FAILED, TIMED_OUT, AGAIN):
        code = "" if row.exit_code in (0, None) else f", exit code {row.exit_code}"
        return f"{row.status} after {row.seconds:.0f} s{code}"
    return row.status

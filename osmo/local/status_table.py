"""Shows the state of every task: a table that redraws itself on a terminal; in a log one line per change, and the table
at the end.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TextIO

REDRAW_S = 0.25


class Status(StrEnum):
    """The states of a task."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    UPSTREAM_FAILED = "upstream failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Row:
    """What is known of a task."""

    status: Status = Status.WAITING
    exit_code: int | None = None
    seconds: float = 0.0
    tries: int = 0
    note: str = ""  # the last line of its log


class StatusTable:
    """Shows rows as they change; `known` are those that need no line because they were shown by an earlier run."""

    def __init__(self, known: Mapping[str, Row]) -> None:
        self._out: TextIO = sys.stderr
        self._is_terminal = self._out.isatty()
        self._drawn_lines, self._last_s = 0, 0.0
        self._shown = {name: (row.status, row.tries) for name, row in known.items()}

    def show(self, rows: Mapping[str, Row]) -> None:
        """Redraw the table, or log what has changed."""
        if self._is_terminal:
            if time.monotonic() - self._last_s >= REDRAW_S:
                self._draw(rows)
            return
        for name, row in rows.items():
            if self._shown.get(name, (Status.WAITING, 0)) != (row.status, row.tries):
                self._shown[name] = (row.status, row.tries)
                self._print(f"{time.strftime('%H:%M:%S')} {name} {_describe(row)}")

    def finish(self, rows: Mapping[str, Row]) -> None:
        """Show how everything ended."""
        if self._is_terminal:
            self._draw(rows)
            return
        self.show(rows)
        self._print("\n".join(_table(rows, None)))

    def _draw(self, rows: Mapping[str, Row]) -> None:
        lines = _table(rows, shutil.get_terminal_size().columns)
        up = f"\x1b[{self._drawn_lines}F" if self._drawn_lines else ""
        self._print(up + "\n".join(f"\x1b[2K{line}" for line in lines))
        self._drawn_lines, self._last_s = len(lines), time.monotonic()

    def _print(self, text: str) -> None:
        print(text, file=self._out, flush=True)


def _table(rows: Mapping[str, Row], width: int | None) -> list[str]:
    """Return the lines of the table, cut to the width of a terminal."""
    longest = max(map(len, [*rows, "task"]))
    lines = [f"{'task':{longest}}  {'status':15}  {'code':>4}  {'time':>8}  last line"]
    for name, row in rows.items():
        code = "" if row.exit_code is None else str(row.exit_code)
        duration = f"{row.seconds:.0f} s" if row.seconds < 3600 else f"{row.seconds / 3600:.1f} h"
        lines.append(f"{name:{longest}}  {row.status:15}  {code:>4}  {duration:>8}  {row.note}")
    return [line[: width - 1] if width else line for line in lines]


def _describe(row: Row) -> str:
    if row.status == Status.RUNNING:
        return "started" if row.tries == 1 else f"started, try {row.tries}"
    if row.status in (Status.COMPLETED, Status.FAILED, Status.WAITING):
        what = "starting again" if row.status == Status.WAITING else row.status
        code = f", exit code {row.exit_code}" if row.exit_code else ""
        return f"{what} after {row.seconds:.0f} s{code}"
    return row.status

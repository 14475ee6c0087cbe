"""What every command runs in: logging, progress, and the translation of exceptions into one line and an exit code.

Exit codes: 0 success; 2 user error; 75 temporary failure (EX_TEMPFAIL); 130 stopped by Ctrl-C; 1 internal error, with its
traceback.
"""

import argparse
import errno
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

from common.cli.redact import RedactingFormatter, install_hooks, redact

EXIT_USER = 2
EXIT_TRANSIENT = 75
EXIT_INTERRUPTED = 130  # as shells count Ctrl-C
LOG_PERIOD_S = 10.0
STOPPED = "stopped; run the same command again to continue"
# Refusals of the operating system that its user can resolve; any other OSError is an internal error.
_REMEDIES = {
    errno.ENOSPC: "free some space and run again",
    errno.EDQUOT: "free some space and run again",
    errno.EACCES: "change its permissions or choose another path",
    errno.EPERM: "change its permissions or choose another path",
    errno.EROFS: "choose a path on a writable file system",
    errno.ENOTDIR: "choose another path",
    errno.EEXIST: "choose another path",  # a file where a folder has to be
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOLCK: "choose a path on a file system that supports locks",
}

T = TypeVar("T")
log = logging.getLogger(__name__)


class UserError(Exception):
    """An error that the user can resolve. Its text is one line: the thing, its value, and the way out."""


class TransientError(Exception):
    """A temporary failure outside the program: the same command may succeed later."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UserError, so that its errors look like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage and exiting."""
        raise UserError(f"command line: {message}; see {self.prog} --help")


def add_config_flags(parser: argparse.ArgumentParser, sections: str) -> None:
    """Add --config and --override, which every stage has; `flags.override` is a flat list of key=value texts."""
    parser.add_argument("--config", type=Path, help=f"YAML file with the sections {sections}")
    help_text = "such as data.fps=15; takes several and repeats"
    parser.add_argument("--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help=help_text)


def whole_number(low: int) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `low` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} on, got {text!r}")
        return int(text)

    return parse


def progress(
    items: Iterable[T], total: int, label: str, unit: str = "it", done: int = 0, note: Callable[[], str] | None = None
) -> Generator[T]:
    """Yield `items` and show rate and remaining time: a bar on a terminal, a line about every ten seconds in a log.

    `done` of the `total` were done before. `note` returns what else to show; with it a log has a line at the end, too.
    """
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(items, total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True) as bar:
            for item in bar:
                yield item
                bar.set_postfix_str(note() if note else "", refresh=False)
        return
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now, left = time.monotonic(), total - done - count
        if now - last >= LOG_PERIOD_S or (note and not left):
            rate = count / (now - start)
            text = f"{done + count} of {total}, {rate:.1f} {unit}/s, about {left / rate:.0f} s left"
            log.info("%s: %s", label, ", ".join(filter(None, (text, note() if note else ""))))
            last = now


def set_up_logging(level: int = logging.INFO) -> None:
    """Log to stderr in one format and without secrets; stdout is left for results."""
    logging.basicConfig(level=level, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
    for verbose in ("azure", "urllib3"):
        logging.getLogger(verbose).setLevel(max(level, logging.WARNING) if level else logging.NOTSET)
    install_hooks()


def one_line(error: BaseException) -> str:
    """Return the text of an exception without line breaks, or its type when it has no text."""
    return " ".join(str(error).split()) or type(error).__name__


def _interrupt(number: int, _: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # the second Ctrl-C ends the process at once
    raise KeyboardInterrupt


def run(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Call `main`, turn what it raises into an exit code, and exit.

    A traceback is printed for internal errors only. The first Ctrl-C stops the command in an orderly way, the second one at
    once.
    """
    set_up_logging()
    if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_DFL):
        signal.signal(signal.SIGINT, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may not be UTF-8
    try:
        code = main(None)
    except UserError as error:
        print(redact(f"error: {one_line(error)}"), file=sys.stderr)
        code = EXIT_USER
    except TransientError as error:
        print(redact(f"error (temporary; run the same command again): {one_line(error)}"), file=sys.stderr)
        code = EXIT_TRANSIENT
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one need not wait for the interpreter to exit
        print(STOPPED, file=sys.stderr)
        code = EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the flush at exit would fail again
        code = 0
    except OSError as error:
        if error.errno not in _REMEDIES:
            raise
        what, remedy = error.filename or "a write", _REMEDIES[error.errno]
        print(f"error: {what}: {os.strerror(error.errno)}; {remedy}", file=sys.stderr)
        code = EXIT_USER
    sys.exit(code)

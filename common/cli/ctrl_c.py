"""Imported before everything else: a Ctrl-C while a command still imports ends it without a word, as it ends any other."""

import signal


def end_at_once() -> None:
    """Let Ctrl-C end this process until `common.cli.command.run` takes it over; one that is ignored stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

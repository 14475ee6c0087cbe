"""The command that workflows run in a task, `python -m osmo.launch`: osmo/task/launch.py."""

import signal

from common.cli.command import run
from osmo.task.launch import exit_transient, main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, exit_transient)
    run(main)

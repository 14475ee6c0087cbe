"""`python -m osmo.launch`: the door to osmo/task/launch.py."""

from common.cli.command import run
from osmo.task.launch import main

if __name__ == "__main__":
    run(main)

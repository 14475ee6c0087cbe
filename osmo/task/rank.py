"""Runs one rank of a training under torchrun, and writes its process id and its exit code to files.

torchrun exits with 1 whatever its ranks exit with, and forwards SIGTERM late; the launcher needs the exit codes, and the
processes to forward the signal to.
"""

import os
import runpy
from pathlib import Path

from common.storage.files import write_file

PID, CODE = ".pid", ".code"


def main() -> None:
    """Train, and record the exit code."""
    record = Path(os.environ["LAUNCH_DIR"], os.environ["RANK"])
    write_file(record.with_suffix(PID), str(os.getpid()).encode())
    code: object = 1
    try:
        runpy.run_module("stage2_train", run_name="__main__", alter_sys=True)
    except SystemExit as exiting:
        code = exiting.code or 0
        raise
    finally:
        write_file(record.with_suffix(CODE), str(code).encode())


if __name__ == "__main__":
    main()

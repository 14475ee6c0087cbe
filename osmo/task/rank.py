"""One rank of a training under torchrun in; its process id and its exit code in files out.

torchrun answers 1 for every code of its ranks, and passes a SIGTERM on in its own time; the launcher needs the codes, and
whom to pass the signal to.
"""

import os
import runpy
from pathlib import Path

from common.storage.files import write_file

PID, CODE = ".pid", ".code"


def main() -> None:
    """Train, and leave word of how it ended."""
    own = Path(os.environ["LAUNCH_DIR"], os.environ["RANK"])
    write_file(own.with_suffix(PID), str(os.getpid()).encode())
    code: object = 1
    try:
        runpy.run_module("stage2_train", run_name="__main__", alter_sys=True)
    except SystemExit as leaving:
        code = leaving.code or 0
        raise
    finally:
        write_file(own.with_suffix(CODE), str(code).encode())


if __name__ == "__main__":
    main()

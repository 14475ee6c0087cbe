"""`python -m tests.reliability.operations ROOT JSON`: a sequence of writes by common/storage/files.py."""

import json
import sys
from pathlib import Path

from common.storage.files import locked, new_folder, write_file


def do(root: Path, kind: str, text: str) -> None:
    """Replace the file `file` or the folder `folder`."""
    if kind == "file":
        write_file(root / kind, text.encode())
    else:
        with new_folder(root / kind) as folder:
            (folder / "inside").mkdir()
            for part in ("a", "inside/b"):
                (folder / part).write_text(text)


def main() -> None:
    """Do all operations while holding the folder's lock."""
    root, operations = Path(sys.argv[1]), json.loads(sys.argv[2])
    with locked(root):
        for kind, text in operations:
            do(root, kind, text)
            print(f"done={kind}", flush=True)


if __name__ == "__main__":
    main()

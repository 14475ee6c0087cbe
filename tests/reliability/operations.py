"""`python -m tests.reliability.operations ROOT JSON`: a sequence of writes by common/storage/files.py; the n-th is the last."""

import json
import sys
from pathlib import Path

from common.storage.files import atomic_path, locked, new_folder, write_file


def do(root: Path, kind: str, name: str, text: str) -> None:
    """Do one operation: a file or a folder takes the place of what has its name."""
    if kind == "file":
        write_file(root / name, text.encode())
    elif kind == "piecewise":
        with atomic_path(root / name) as temporary, temporary.open("w") as file:
            for part in text.split(" ")[:-1]:
                file.write(f"{part} ")
    else:
        with new_folder(root / name) as folder:
            (folder / "inside").mkdir()
            for part in ("a", "inside/b"):
                (folder / part).write_text(text)


def main() -> None:
    """Do them all, as the only one in the folder."""
    root, operations = Path(sys.argv[1]), json.loads(sys.argv[2])
    with locked(root):
        for kind, name, text in operations:
            do(root, kind, name, text)
            print(f"done={name}", flush=True)


if __name__ == "__main__":
    main()

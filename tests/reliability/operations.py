"""`python -m tests.reliability.operations ROOT JSON`: a sequence of writes by common/storage/files.py."""

import json
import sys
from pathlib import Path

from common.storage.files import atomic_path, locked, new_folder, write_file


def do(root: Path, kind: str, name: str, text: str) -> None:
    """Replace a file or a folder."""
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
    """Do all operations while holding the folder's lock."""
    root, operations = Path(sys.argv[1]), json.loads(sys.argv[2])
    with locked(root):
        for kind, name, text in operations:
            do(root, kind, name, text)
            print(f"done={name}", flush=True)


if __name__ == "__main__":
    main()

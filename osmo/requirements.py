"""Prints the pinned requirements of an image, one per line for `pip install -r`, from pyproject.toml and constraints.txt.

torch is left out unless --torch asks for it alone: the build of the base image must stay. Uses the standard library only,
because it runs before anything is installed.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path


def requirements(pyproject: str, constraints: str, without: Sequence[str], torch: bool) -> Iterator[str]:
    """Yield name==version for the runtime dependencies of the project, except `without`."""
    pins = dict(line.split("==") for line in re.sub(r"\s*#.*", "", constraints).split() if "==" in line)
    for dependency in tomllib.loads(pyproject)["project"]["dependencies"]:
        name = re.split(r"[<>=!~ \[]", dependency)[0]
        if name not in without and (name == "torch") == torch:
            yield f"{name}=={pins[name]}" if name in pins else dependency


def main() -> None:
    """Print the requirements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with pyproject.toml and constraints.txt")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="leave these out")
    parser.add_argument("--torch", action="store_true", help="print torch only")
    flags = parser.parse_args()
    texts = [(flags.folder / name).read_text() for name in ("pyproject.toml", "constraints.txt")]
    print("\n".join(requirements(texts[0], texts[1], flags.without, flags.torch)))


if __name__ == "__main__":
    main()

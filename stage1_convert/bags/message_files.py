"""Reads the .msg files of data.msg_paths: the definitions of message types that neither a bag nor a ROS distro has."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.cli.command import UserError, one_line


class MessageFile(NamedTuple):
    """The text of a .msg file; `package` is None where the file lies in no ROS package, and only its name tells its type."""

    package: str | None
    name: str
    text: str


@functools.cache  # asked for with every bag; a workspace may hold thousands
def read_message_files(paths: tuple[str, ...]) -> tuple[MessageFile, ...]:
    """Return the .msg files in these folders, at any depth, or at these paths, in order and each once.

    Raises UserError when there is none, or when two of them define a type differently.
    """
    found: dict[tuple[str | None, str], tuple[MessageFile, Path]] = {}
    for path in map(Path, paths):
        try:
            files = sorted(path.rglob("*.msg")) if path.is_dir() else [path]
            definitions = [(_read(file), file) for file in files if file.is_file()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"data.msg_paths: {path} cannot be read: {one_line(error)}") from error
        if not definitions:
            raise UserError(f"data.msg_paths: {path} holds no .msg file; give a ROS package, its msg folder, or a file")
        for definition, file in definitions:
            known, first = found.setdefault((definition.package, definition.name), (definition, file))
            if known.text != definition.text:
                raise UserError(f"data.msg_paths: {first} and {file} define {known.name} differently; give only one")
    return tuple(
        sorted((definition for definition, _ in found.values()), key=lambda file: (file.package or "", file.name))
    )


def find_text(msgtype: str, files: tuple[MessageFile, ...]) -> str | None:
    """Return the definition of a type such as my_msgs/msg/State, None when no file has it."""
    package, name = msgtype.partition("/")[0], msgtype.rpartition("/")[2]
    texts = {file.package: file.text for file in files if file.name == name}
    return texts.get(package, texts.get(None))


def referenced_types(fields: object) -> Iterator[str]:
    """Yield the message types among the fields of a rosbags type definition."""
    if isinstance(fields, str) and "/msg/" in fields:
        yield fields
    elif isinstance(fields, tuple | list):
        for field in fields:
            yield from referenced_types(field)


def _read(file: Path) -> MessageFile:
    folder = file.resolve().parent
    package = None
    if folder.name == "msg":
        package = folder.parent.name
    elif (folder / "package.xml").is_file():
        package = folder.name
    return MessageFile(package, file.stem, file.read_text(encoding="utf-8"))

"""A bag or a folder of bags in; tables of what they hold, a thumbnail per camera and a proposed configuration out."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from common.cli.command import UserError, one_line
from common.lerobot.images import resize
from common.storage.files import write_file
from common.storage.worker import Limits, map_isolated
from stage1_convert.align.joint_fields import COMMANDS
from stage1_convert.bags.message_types import IMAGE_TYPES
from stage1_convert.bags.storage import limits_for
from stage1_convert.images.encode import encode
from stage1_convert.inspect.proposal import propose
from stage1_convert.inspect.survey import Camera, Survey, TopicStats, changes, survey
from stage1_convert.sources.folder import find_bags, size_bytes
from stage1_convert.sources.source import Source

THUMBNAIL_PX = 320
CONFIG_NAME = "proposed.yaml"


def inspect(path: Path, out: Path | None = None, distro: str = "humble") -> int:
    """Print what the bag at `path`, or each bag below it, holds; thumbnails and the configuration go into `out`.

    `out` is made; without it a new temporary folder is taken. Returns the exit code: 2 when a bag cannot be read.
    """
    sources = _sources(path)
    folder = out or Path(tempfile.mkdtemp(prefix="inspect-"))
    folder.mkdir(parents=True, exist_ok=True)
    surveys, refused = [], 0
    with contextlib.closing(map_isolated(_survey, [(source, distro) for source in sources], 1, _limits)) as answers:
        for source, found in zip(sources, answers, strict=True):
            if isinstance(found, UserError):
                print(f"bag {source.name}: {one_line(found)}\n")
                refused += 1
                continue
            surveys.append(found)
            print("\n".join(describe(found, _thumbnails(found, folder))), end="\n\n")
    text = propose(surveys)
    if text is None:
        print("no configuration is proposed: no bag holds joint states and images that decode")
    else:
        write_file(folder / CONFIG_NAME, text.encode())
        print(f"proposed configuration, saved as {folder / CONFIG_NAME}:\n\n{text}")
        print(f"convert with: python -m stage1_convert --src {path} --out DATASET --config {folder / CONFIG_NAME}")
    return 2 if refused or any(found.fault for found in surveys) else 0


def _survey(asked: tuple[Source, str]) -> Survey:
    return survey(*asked)


def _limits(asked: tuple[Source, str]) -> Limits:
    return limits_for(size_bytes(asked[0].path))


def _sources(path: Path) -> list[Source]:
    if (path / "metadata.yaml").is_file() or path.is_file():
        return [Source(path.resolve().name, path)]
    return find_bags(path)


def describe(found: Survey, thumbnails: dict[str, Path]) -> list[str]:
    """Return the lines about one bag."""
    messages = sum(facts.read for facts in found.topics)
    files = f"{found.files} file{'s' * (found.files != 1)}"
    lines = [f"bag {found.name}: {files}, {_size(found.size_bytes)}, {found.seconds:.1f} s, {messages:,} messages"]
    lines += [f"  {key}: {value}" for key, value in found.custom.items()]
    lines += ["", *_table([HEAD, *(_row(facts) for facts in found.topics)]), ""]
    for facts in found.topics:
        lines += _details(facts, thumbnails.get(facts.name))
    lines += [f"  warning: {warning}" for warning in found.warnings]
    if found.fault:
        lines.append(f"  cannot be read to its end: {found.fault}")
    return lines


HEAD = ("topic", "type", "messages", "rate Hz", "jitter ms", "worst gap ms", "clock", "latency ms")


def _row(facts: TopicStats) -> tuple[str, ...]:
    messages = f"{facts.read:,}" if facts.read == facts.declared else f"{facts.read:,} of {facts.declared:,}"
    rate, intervals_ms = facts.rate_hz, facts.intervals_ms
    kind = facts.type.replace("/msg/", "/")
    if facts.clock is None:
        return facts.name, kind, messages, "", "", "", "", ""
    latency_ms = facts.clock.latency_ms
    return (
        facts.name,
        kind,
        messages,
        f"{rate:.1f}" if rate else "",
        f"{np.std(intervals_ms):.2f}" if len(intervals_ms) > 1 else "",
        f"{intervals_ms.max():.1f}" if len(intervals_ms) else "",
        facts.clock.source,
        f"{latency_ms:.1f}" if latency_ms is not None else "",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{c:<{w}}" if at in (0, 1, 6) else f"{c:>{w}}" for at, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _details(facts: TopicStats, thumbnail: Path | None) -> Iterator[str]:
    """Yield what the table has no room for: a clock that was not trusted, joints, images."""
    ours = facts.type in (*COMMANDS, *IMAGE_TYPES)
    if ours and facts.clock is not None and facts.clock.source == "receive":
        yield f"  {facts.name}: receive times are taken: {facts.clock.reason}"
    if facts.fault:
        yield f"  {facts.name}: {facts.fault}"
    if facts.orders:
        yield f"  {facts.name}: joints {', '.join(facts.orders[0].names) or '(none named)'}"
        for change in changes(facts.orders):
            yield f"  {facts.name}: THE ORDER CHANGES {change}"
    if facts.camera:
        yield f"  {facts.name}: {_image_text(facts.camera)}" + (f"; thumbnail: {thumbnail}" if thumbnail else "")


def _image_text(camera: Camera) -> str:
    size = "{}x{} ".format(*camera.image.shape[:2]) if camera.image is not None else ""
    fault = f", which does not decode: {camera.fault}" if camera.fault else ""
    return f"{size}images, {camera.encoding}, {_size(camera.mean_bytes)} each{fault}"


def _thumbnails(found: Survey, folder: Path) -> dict[str, Path]:
    """Write a small image of every camera; returns the files by topic."""
    written = {}
    for facts in found.topics:
        if facts.camera and facts.camera.image is not None:
            height, width, _ = facts.camera.image.shape
            scale = min(1.0, THUMBNAIL_PX / max(height, width))
            small = resize(facts.camera.image, (max(1, round(height * scale)), max(1, round(width * scale))))
            name = re.sub(r"[^\w.-]+", "_", f"{found.name}{facts.name}").strip("_")
            written[facts.name] = folder / f"{name}.jpg"
            write_file(written[facts.name], encode(small, "jpeg", 90))
    return written


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}" if unit != "B" else f"{n_bytes:.0f} B"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"

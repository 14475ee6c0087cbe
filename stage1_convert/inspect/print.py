"""Print what bags hold, save a thumbnail of each camera, and propose a configuration that converts them."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import yaml

from common.cli.command import UserError, one_line
from common.lerobot.images import resize
from common.report.formatting import counted
from common.storage.files import write_file
from common.storage.worker import Limits, map_isolated
from stage1_convert.bags.message_types import IMAGE_TYPES
from stage1_convert.bags.storage import limits_for
from stage1_convert.config import Config, DataConfig
from stage1_convert.images.encode import encode
from stage1_convert.inspect.dry_run import BagEstimate, estimate_bag
from stage1_convert.inspect.proposal import describe_missing, propose
from stage1_convert.inspect.survey import Camera, Survey, TopicStats, changes, survey
from stage1_convert.sources.folder import list_bags, size_bytes
from stage1_convert.sources.join import describe_parallel
from stage1_convert.sources.source import BagPath
from stage1_convert.streams.joint_fields import COMMANDS

THUMBNAIL_PX = 320
CONFIG_NAME = "proposed.yaml"
DATA = DataConfig()


def inspect(path: Path, out: Path | None = None, data: DataConfig = DATA, join: bool = False) -> int:
    """Print what the bag at `path`, or each bag below it, holds; thumbnails and the configuration go into `out`.

    `out` is created if it is missing; without it a new temporary folder is used. With `join`, bags that were recorded side by
    side are one. Returns the exit code: 2 when a bag cannot be read.
    """
    sources = list_bags(path, join)
    folder = out or Path(tempfile.mkdtemp(prefix="inspect-"))
    folder.mkdir(parents=True, exist_ok=True)
    surveys, refused = [], 0
    with contextlib.closing(map_isolated(partial(survey, data=data), sources, 1, _limits)) as answers:
        for source, found in zip(sources, answers, strict=True):
            if isinstance(found, UserError):
                print(f"bag {source.name}: {one_line(found)}\n")
                refused += 1
                continue
            surveys.append(found)
            print("\n".join(describe(found, _thumbnails(found, folder))), end="\n\n")
    proposal = propose(surveys)
    if proposal is None:
        hint = describe_parallel(sources) if len(sources) > 1 else ""
        print(f"no configuration is proposed: {describe_missing(surveys)}{f'; {hint}' if hint else ''}")
    else:
        text = _describe_trial(next(source for source in sources if source.name == proposal.bag), proposal.text)
        write_file(folder / CONFIG_NAME, text.encode())
        print(f"proposed configuration, saved as {folder / CONFIG_NAME}:\n\n{text}")
        flags = f"--config {folder / CONFIG_NAME}{' --join' if join else ''}"
        print(f"convert with: python -m stage1_convert --src {path} --out DATASET {flags}")
    return 2 if refused or any(found.error for found in surveys) else 0


def _describe_trial(source: BagPath, text: str) -> str:
    """Return a proposed configuration below what its frames make of the images, or what would prevent its use."""
    config = Config.model_validate(yaml.safe_load(text))
    with contextlib.closing(map_isolated(partial(estimate_bag, config=config), [source], 1, _limits)) as answers:
        estimate = next(answers)
    if isinstance(estimate, UserError):
        estimate = BagEstimate(source.name, refused=one_line(estimate))
    refused = f"bag {source.name} would still be refused: {estimate.refused}"
    lines = estimate.images if estimate.refused is None else [refused]
    return "".join(f"# {line}\n" for line in lines) + text


def _limits(source: BagPath) -> Limits:
    return limits_for(size_bytes(source.path))


def describe(found: Survey, thumbnails: dict[str, Path]) -> list[str]:
    """Return the lines about one bag."""
    messages = sum(topic.read for topic in found.topics)
    size = f"{counted(found.files, 'file')}, {_size(found.size_bytes)}, {found.seconds:.1f} s, {messages:,} messages"
    lines = [f"bag {found.name}: {size}"]
    lines += [f"  {key}: {value}" for key, value in found.custom.items()]
    lines += ["", *_table([HEAD, *(_row(topic) for topic in found.topics)]), ""]
    for topic in found.topics:
        lines += _details(topic, thumbnails.get(topic.name))
    lines += [f"  warning: {warning}" for warning in found.warnings]
    if found.error:
        lines.append(f"  cannot be read to its end: {found.error}")
    return lines


HEAD = ("topic", "type", "messages", "rate Hz", "jitter ms", "worst gap ms", "clock", "latency ms")


def _row(topic: TopicStats) -> tuple[str, ...]:
    messages = f"{topic.read:,}" if topic.read == topic.declared else f"{topic.read:,} of {topic.declared:,}"
    rate, intervals_ms = topic.rate_hz, topic.intervals_ms
    kind = topic.type.replace("/msg/", "/")
    if topic.clock is None:
        return topic.name, kind, messages, "", "", "", "", ""
    latency_ms = topic.clock.latency_ms
    return (
        topic.name,
        kind,
        messages,
        f"{rate:.1f}" if rate else "",
        f"{np.std(intervals_ms):.2f}" if len(intervals_ms) > 1 else "",
        f"{intervals_ms.max():.1f}" if len(intervals_ms) else "",
        topic.clock.source,
        f"{latency_ms:.1f}" if latency_ms is not None else "",
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            f"{c:<{w}}" if i in (0, 1, 6) else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def _details(topic: TopicStats, thumbnail: Path | None) -> Iterator[str]:
    """Yield what the table does not show: the reason for using receive times, joints, images."""
    is_used = topic.type in (*COMMANDS, *IMAGE_TYPES)
    if is_used and topic.clock is not None and topic.clock.source == "receive":
        yield f"  {topic.name}: receive times are used: {topic.clock.reason}"
    if topic.error:
        yield f"  {topic.name}: {topic.error}"
    if topic.orders:
        yield f"  {topic.name}: joints {', '.join(topic.orders[0].names) or '(none named)'}"
        for change in changes(topic.orders):
            yield f"  {topic.name}: THE ORDER CHANGES {change}"
    if topic.camera:
        yield f"  {topic.name}: {_image_text(topic.camera)}" + (f"; thumbnail: {thumbnail}" if thumbnail else "")


def _image_text(camera: Camera) -> str:
    size = "{}x{} ".format(*camera.image.shape[:2]) if camera.image is not None else ""
    error = f", which cannot be decoded: {camera.error}" if camera.error else ""
    kind = f" understood as {camera.kind}" if camera.kind else ""
    if camera.guess:
        kind += f" (a guess: data.encodings={{CAMERA: {camera.guess}}})"
    if camera.measured:
        kind += f" from {camera.measured.lowest:g} to {camera.measured.highest:g}"
    return f"{size}images, {camera.encoding or 'of no named encoding'}{kind}, {_size(camera.mean_bytes)} each{error}"


def _thumbnails(found: Survey, folder: Path) -> dict[str, Path]:
    """Write a small image of every camera; returns the files by topic."""
    written = {}
    for topic in found.topics:
        if topic.camera and topic.camera.image is not None:
            height, width, _ = topic.camera.image.shape
            scale = min(1.0, THUMBNAIL_PX / max(height, width))
            small = resize(topic.camera.image, (max(1, round(height * scale)), max(1, round(width * scale))))
            name = re.sub(r"[^\w.-]+", "_", f"{found.name}{topic.name}").strip("_")
            written[topic.name] = folder / f"{name}.jpg"
            write_file(written[topic.name], encode(small, "jpeg", 90))
    return written


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.1f} {unit}" if unit != "B" else f"{n_bytes:.0f} B"
        n_bytes /= 1000
    return f"{n_bytes:.2f} GB"

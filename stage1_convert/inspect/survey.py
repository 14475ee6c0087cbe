"""One bag in; what a person wants to know before converting it, out: topics, rates, clocks, joints, cameras."""

import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.cli.command import UserError, one_line
from common.lerobot.images import Image
from stage1_convert.align.clock import Clock, Int64, choose_clock
from stage1_convert.align.joint_fields import JOINT_STATE
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.cdr import FieldReader, stamp_reader
from stage1_convert.bags.message_types import IMAGE_TYPES, VIDEO_TYPES
from stage1_convert.bags.storage import Bytes, storage_files
from stage1_convert.images.decode import read_image
from stage1_convert.images.video_topic import VideoDecoder, starts_video
from stage1_convert.sources.source import Source

HEAD_BYTES = 4096  # of a message: enough for its stamp
BATCH_MESSAGES = 1024
NAMES_AT = 12  # behind the four bytes of the encapsulation and the eight of the stamp, in a JointState


class Order(NamedTuple):
    """An order of joint names, how many messages have it, and the number of the first of them."""

    names: tuple[str, ...]
    messages: int
    first: int


class Camera(NamedTuple):
    """A topic's images: their kind, size and mean bytes, and one from the middle; or why it cannot be shown."""

    encoding: str
    mean_bytes: float
    image: Image | None
    fault: str | None


class TopicStats(NamedTuple):
    """What one topic holds; times are by its clock, `clock` None where it has no message."""

    name: str
    type: str
    declared: int
    read: int
    clock: Clock | None
    has_header: bool
    orders: list[Order]
    camera: Camera | None
    fault: str | None

    @property
    def intervals_ms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The times between messages that follow each other."""
        stamps_ns = self.clock.stamps_ns if self.clock else np.zeros(0, np.int64)
        return np.diff(stamps_ns) / 1e6

    @property
    def rate_hz(self) -> float | None:
        """Messages per second, from the first to the last."""
        total_ms = float(self.intervals_ms.sum())
        return 1000 * (self.read - 1) / total_ms if total_ms > 0 else None

    @property
    def pace_hz(self) -> float | None:
        """Messages per second by the median interval: a gap does not change it."""
        middle_ms = float(np.median(self.intervals_ms)) if self.read > 1 else 0.0
        return 1000 / middle_ms if middle_ms > 0 else None


class Survey(NamedTuple):
    """A bag by its topics; `fault` tells why reading it ended early, `custom` what the recording was tagged with."""

    name: str
    files: int
    size_bytes: int
    seconds: float
    topics: list[TopicStats]
    custom: dict[str, str]
    warnings: list[str]
    fault: str | None


def survey(source: Source, distro: str) -> Survey:
    """Read a whole bag once; raises UserError when it cannot be opened at all."""
    files = storage_files(source.path) if source.path.is_dir() else [source.path]
    with tempfile.TemporaryDirectory() as scratch, open_bag(source.path, Path(scratch), distro) as bag:
        watched, fault = {}, None
        for name in sorted(bag.topics):
            watched[name] = _TopicReader(bag, name)
        first_ns = last_ns = 0
        try:
            for topic, receive_ns, data in bag.records([n for n, w in watched.items() if w.fault is None]):
                first_ns, last_ns = first_ns or receive_ns, receive_ns
                watched[topic].add(receive_ns, data)
        except UserError as error:
            fault = one_line(error)
        topics = [watch.finish() for watch in watched.values()]
        size_bytes, seconds = sum(file.stat().st_size for file in files), (last_ns - first_ns) / 1e9
        return Survey(source.name, len(files), size_bytes, seconds, topics, bag.custom, list(bag.warnings), fault)


class _TopicReader:
    """One topic while it is read."""

    def __init__(self, bag: Bag, name: str) -> None:
        self._bag, self._name, self._topic = bag, name, bag.topics[name]
        self.fault: str | None = None
        self._reader: FieldReader | None = None
        try:
            bag.check_topic(name)
            stamps = stamp_reader(bag.types(name), self._topic.type)
            self._reader = stamps if stamps.has_stamp else None
        except UserError as error:
            self.fault = one_line(error)
        self._receive_ns, self._header_ns = array("q"), array("q")
        self._heads: list[bytes] = []
        self._orders: dict[tuple[str, ...], Order] = {}
        self._prefixes: dict[bytes, tuple[str, ...]] = {}
        self._image_bytes, self._shown = 0, b""
        self._video = VideoDecoder() if self._topic.type in VIDEO_TYPES else None
        self._frame: Image | None = None

    def add(self, receive_ns: int, data: Bytes) -> None:
        """Take the next message."""
        number = len(self._receive_ns)
        self._receive_ns.append(receive_ns)
        self._heads.append(bytes(data[:HEAD_BYTES]))
        if len(self._heads) == BATCH_MESSAGES:
            self._flush()
        if self._topic.type == JOINT_STATE:
            self._note_names(number, bytes(data))
        elif self._topic.type in IMAGE_TYPES:
            self._image_bytes += len(data)
            if self._video is not None:
                self._watch_video(number, data)
            elif number in (0, self._topic.declared // 2):
                self._shown = bytes(data)

    def finish(self) -> TopicStats:
        """Return what was seen."""
        self._flush()
        receive_ns = np.array(self._receive_ns, np.int64)
        has_header = self._reader is not None
        header_ns = np.array(self._header_ns, np.int64) if has_header else np.zeros(len(receive_ns), np.int64)
        clock = _clock(header_ns, receive_ns, has_header) if len(receive_ns) else None
        camera = self._camera() if self._topic.type in IMAGE_TYPES and len(receive_ns) else None
        orders = sorted(self._orders.values(), key=lambda order: order.first)
        topic = self._topic
        return TopicStats(
            self._name, topic.type, topic.declared, len(receive_ns), clock, has_header, orders, camera, self.fault
        )

    def _flush(self) -> None:
        if self._heads and self._reader is not None:
            self._header_ns.frombytes(self._reader.read(self._heads).header_ns.astype(np.int64).tobytes())
        self._heads = []

    def _note_names(self, number: int, data: bytes) -> None:
        """Count the order of a JointState's names; equal beginnings are not taken apart again."""
        length = next((len(p) for p in self._prefixes if data[NAMES_AT : NAMES_AT + len(p)] == p), 0)
        names = self._prefixes.get(data[NAMES_AT : NAMES_AT + length])
        if names is None:
            try:
                message = self._bag.deserialize(self._name, data)
            except UserError:
                return  # damaged: the conversion will name it
            names = tuple(message.name)
            end = data.rfind(names[-1].encode() + b"\0") + len(names[-1].encode()) + 1 if names else NAMES_AT
            self._prefixes = {data[NAMES_AT:end]: names, **dict(list(self._prefixes.items())[:15])}
        known = self._orders.get(names, Order(names, 0, number))
        self._orders[names] = known._replace(messages=known.messages + 1)

    def _watch_video(self, number: int, data: Bytes) -> None:
        """Decode until the first image is there."""
        if self._frame is not None or self.fault or self._video is None:
            return
        try:
            packet: Any = self._bag.deserialize(self._name, data)
            if self._shown or starts_video(packet):
                self._shown = self._shown or bytes(data)
                self._frame = next((image for _, image in self._video.add(number, packet)), None)
        except UserError as error:
            self.fault = one_line(error)

    def _camera(self) -> Camera:
        mean_bytes = self._image_bytes / len(self._receive_ns)
        try:
            if self._video is not None:
                return Camera("video", mean_bytes, self._frame, None if self._frame is not None else "no key frame")
            message: Any = self._bag.deserialize(self._name, self._shown)
            encoding = getattr(message, "encoding", None) or str(message.format)
            return Camera(encoding, mean_bytes, read_image(message).pixels, None)
        except UserError as error:
            return Camera("unknown", mean_bytes, None, one_line(error))


def _clock(header_ns: Int64, receive_ns: Int64, has_header: bool) -> Clock:
    if not has_header:
        return Clock(receive_ns, "receive", "messages of this type carry no stamp", None)
    return choose_clock(header_ns, receive_ns, "auto")


def changes(orders: list[Order]) -> Iterator[str]:
    """Yield a sentence for every change of the joints' order."""
    for order in orders[1:]:
        yield f"from message {order.first} on ({order.messages} messages): {', '.join(order.names)}"

"""Read a whole bag and describe its topics: rates, clocks, orders of joints, cameras."""

import contextlib
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
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.cdr import FieldReader, stamp_reader
from stage1_convert.bags.message_types import IMAGE_TYPES, VIDEO_TYPES
from stage1_convert.bags.storage import Bytes, storage_files
from stage1_convert.config import DataConfig, Encoding
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import ImageRules
from stage1_convert.images.raw import GUESSES
from stage1_convert.images.shades import Measured
from stage1_convert.images.video_topic import VideoDecoder, starts_video
from stage1_convert.pipeline.plan_bag import open_by_settings
from stage1_convert.sources.source import BagPath

HEAD_BYTES = 4096  # of a message; they include its stamp
BATCH_MESSAGES = 1024
NAMES_OFFSET = 12  # in a JointState: 4 bytes of encapsulation and 8 of the stamp come before


class JointOrder(NamedTuple):
    """An order of joint names, the number of messages that have it, and the index of the first of them."""

    names: tuple[str, ...]
    messages: int
    first: int


class Camera(NamedTuple):
    """The images of a topic: their encoding, mean size, and one from the middle, or the error that prevents showing it.

    `sizes` are the different sizes (height, width) of the first, the middle and the last one. `kind` is as what the encoding
    is understood, and `measured` what that image holds where it has more than 8 bits. `guess` is the encoding of an image
    whose own word leaves it open.
    """

    encoding: str
    mean_bytes: float
    image: Image | None
    error: str | None
    kind: str = ""
    measured: Measured | None = None
    guess: Encoding | None = None
    sizes: tuple[tuple[int, int], ...] = ()


class TopicStats(NamedTuple):
    """Messages of one topic; times are by its clock, which is None where it has no message."""

    name: str
    type: str
    declared: int
    read: int
    clock: Clock | None
    orders: list[JointOrder]
    camera: Camera | None
    error: str | None

    @property
    def intervals_ms(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Times between consecutive messages (messages - 1,)."""
        stamps_ns = self.clock.stamps_ns if self.clock else np.zeros(0, np.int64)
        return np.diff(stamps_ns) / 1e6

    @property
    def rate_hz(self) -> float | None:
        """Messages per second, from the first to the last."""
        total_ms = float(self.intervals_ms.sum())
        return 1000 * (self.read - 1) / total_ms if total_ms > 0 else None


class Survey(NamedTuple):
    """A bag by its topics; `error` says why reading ended early, `custom` is the custom data of the recording."""

    name: str
    files: int
    size_bytes: int
    seconds: float
    topics: list[TopicStats]
    custom: dict[str, str]
    warnings: list[str]
    error: str | None


def survey(source: BagPath, data: DataConfig) -> Survey:
    """Read a whole bag once; raises UserError when it cannot be opened at all."""
    files = storage_files(source.path) if source.path.is_dir() else [source.path]
    with tempfile.TemporaryDirectory() as scratch, open_by_settings(source, Path(scratch), data) as bag:
        readers = {name: _TopicReader(bag, name) for name in sorted(bag.topics)}
        first_ns = last_ns = 0
        failure = None
        try:
            for topic, receive_ns, message in bag.records([n for n, reader in readers.items() if reader.error is None]):
                first_ns, last_ns = first_ns or receive_ns, receive_ns
                readers[topic].add(receive_ns, message)
        except UserError as error:
            failure = one_line(error)
        topics = [reader.finish() for reader in readers.values()]
        size_bytes, seconds = sum(file.stat().st_size for file in files), (last_ns - first_ns) / 1e9
        return Survey(source.name, len(files), size_bytes, seconds, topics, bag.custom, list(bag.warnings), failure)


class _TopicReader:
    """Collects the statistics of one topic."""

    def __init__(self, bag: Bag, name: str) -> None:
        self._bag, self._name, self._topic = bag, name, bag.topics[name]
        self.error: str | None = None
        self._reader: FieldReader | None = None
        try:
            bag.check_topic(name)
            stamps = stamp_reader(bag.types(name), self._topic.type)
            self._reader = stamps if stamps.has_stamp else None
        except UserError as error:
            self.error = one_line(error)
        self._receive_ns, self._header_ns = array("q"), array("q")
        self._heads: list[bytes] = []
        self._orders: dict[tuple[str, ...], JointOrder] = {}
        self._prefixes: dict[bytes, tuple[str, ...]] = {}
        self._image_bytes = 0
        self._samples: list[bytes] = []  # the first, the middle and the last image
        self._video = VideoDecoder() if self._topic.type in VIDEO_TYPES else None
        self._frame: Image | None = None
        self._video_begun = False

    def add(self, receive_ns: int, data: Bytes) -> None:
        """Add the next message."""
        number = len(self._receive_ns)
        self._receive_ns.append(receive_ns)
        self._heads.append(bytes(data[:HEAD_BYTES]))
        if len(self._heads) == BATCH_MESSAGES:
            self._flush()
        if self._topic.type == JOINT_STATE:
            self._count_order(number, bytes(data))
        elif self._topic.type in IMAGE_TYPES:
            self._image_bytes += len(data)
            if self._video is not None:
                self._decode_video(number, data)
            elif number in (0, self._topic.declared // 2, self._topic.declared - 1):
                self._samples.append(bytes(data))

    def finish(self) -> TopicStats:
        """Return the statistics."""
        self._flush()
        receive_ns = np.array(self._receive_ns, np.int64)
        has_header = self._reader is not None
        header_ns = np.array(self._header_ns, np.int64) if has_header else np.zeros(len(receive_ns), np.int64)
        clock = _clock(header_ns, receive_ns, has_header) if len(receive_ns) else None
        camera = self._camera() if self._topic.type in IMAGE_TYPES and len(receive_ns) else None
        orders = sorted(self._orders.values(), key=lambda order: order.first)
        topic = self._topic
        return TopicStats(self._name, topic.type, topic.declared, len(receive_ns), clock, orders, camera, self.error)

    def _flush(self) -> None:
        if self._heads and self._reader is not None:
            self._header_ns.frombytes(self._reader.read(self._heads).header_ns.astype(np.int64).tobytes())
        self._heads = []

    def _count_order(self, number: int, data: bytes) -> None:
        """Count the order of the names in a JointState; names with the same bytes are deserialized once."""
        length = next((len(p) for p in self._prefixes if data[NAMES_OFFSET : NAMES_OFFSET + len(p)] == p), 0)
        names = self._prefixes.get(data[NAMES_OFFSET : NAMES_OFFSET + length])
        if names is None:
            try:
                message = self._bag.deserialize(self._name, data)
            except UserError:
                return  # the conversion reports damaged messages
            names = tuple(message.name)
            end = data.rfind(names[-1].encode() + b"\0") + len(names[-1].encode()) + 1 if names else NAMES_OFFSET
            self._prefixes = {data[NAMES_OFFSET:end]: names, **dict(list(self._prefixes.items())[:15])}
        order = self._orders.get(names, JointOrder(names, 0, number))
        self._orders[names] = order._replace(messages=order.messages + 1)

    def _decode_video(self, number: int, data: Bytes) -> None:
        """Decode packets until the first image."""
        if self._frame is not None or self.error or self._video is None:
            return
        try:
            packet: Any = self._bag.deserialize(self._name, data)
            if self._video_begun or starts_video(packet):
                self._video_begun = True
                self._frame = next((image for _, image in self._video.add(number, packet)), None)
        except UserError as error:
            self.error = one_line(error)

    def _camera(self) -> Camera:
        mean_bytes = self._image_bytes / len(self._receive_ns)
        encoding = "unknown"
        try:
            if self._video is not None:
                return Camera("video", mean_bytes, self._frame, None if self._frame is not None else "no key frame")
            message: Any = self._bag.deserialize(self._name, self._samples[:2][-1])
            encoding = str(message.encoding if hasattr(message, "encoding") else message.format).strip()
            guess = GUESSES.get(encoding)
            image = read_image(message, ImageRules(encoding=guess))
            return Camera(
                encoding, mean_bytes, image.pixels, None, image.kind, image.measured, guess, self._sizes(guess)
            )
        except UserError as error:
            return Camera(encoding, mean_bytes, None, one_line(error))

    def _sizes(self, guess: Encoding | None) -> tuple[tuple[int, int], ...]:
        sizes = []
        for data in self._samples:
            with contextlib.suppress(UserError):  # the conversion reports damaged messages
                image = read_image(self._bag.deserialize(self._name, data), ImageRules(encoding=guess))
                sizes.append((image.height, image.width))
        return tuple(dict.fromkeys(sizes))


def _clock(header_ns: Int64, receive_ns: Int64, has_header: bool) -> Clock:
    if not has_header:
        return Clock(receive_ns, "receive", "messages of this type carry no stamp", None)
    return choose_clock(header_ns, receive_ns, "auto")


def changes(orders: list[JointOrder]) -> Iterator[str]:
    """Yield a description of every change of the order of joints."""
    for order in orders[1:]:
        yield f"from message {order.first} on ({order.messages} messages): {', '.join(order.names)}"

"""Read a whole bag and describe its topics: rates, clocks, orders of joints, cameras."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.typesys.store import Typestore

from common.cli.command import UserError, one_line
from common.lerobot.images import Image
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.cdr import FieldReader, stamp_reader
from stage1_convert.bags.message_types import IMAGE_TYPES, VIDEO_TYPES
from stage1_convert.bags.storage import Bytes, storage_files
from stage1_convert.config import DataConfig, Encoding
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import CameraImage, ImageRules
from stage1_convert.images.raw import GUESSES
from stage1_convert.images.shades import Measured
from stage1_convert.images.video_topic import VideoStream
from stage1_convert.pipeline.plan_bag import open_by_settings
from stage1_convert.sources.source import BagPath
from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import Clock, choose_clock
from stage1_convert.streams.joint_fields import JOINT_STATE
from stage1_convert.streams.reader import read_messages


class JointOrder(NamedTuple):
    """An order of joint names, the number of messages that have it, and the index of the first of them."""

    names: tuple[str, ...]
    messages: int
    first: int


class Camera(NamedTuple):
    """The images of a topic: their encoding, mean size, and one from the middle, or why none can be shown.

    `sizes` are the different sizes (height, width) of the first, the middle and the last one, as far as they decode. `kind`
    is as what the encoding is understood, and `measured` what the image holds where it has more than 8 bits. `guess` is the
    encoding of an image whose own word leaves it open.
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
        readers = [_TopicReader(bag, name) for name in sorted(bag.topics)]
        failure = None
        try:
            read_messages(bag, [reader for reader in readers if reader.error is None])
        except UserError as error:
            failure = one_line(error)
        times_ns = [time_ns for reader in readers for time_ns in reader.received_ns()] or [0]
        seconds, size_bytes = (max(times_ns) - min(times_ns)) / 1e9, sum(file.stat().st_size for file in files)
        topics = [reader.finish() for reader in readers]
        return Survey(source.name, len(files), size_bytes, seconds, topics, bag.custom, list(bag.warnings), failure)


class _TopicReader:
    """Collects the statistics of one topic."""

    def __init__(self, bag: Bag, topic: str) -> None:
        self._bag, self.topic, self._type = bag, topic, bag.topics[topic].type
        self.error: str | None = None
        self._fields: FieldReader | None = None
        try:
            bag.check_topic(topic)
            self._fields = _reader(bag.types(topic), self._type)
        except UserError as error:
            self.error = one_line(error)
        self._parts: list[tuple[Int64, Int64, Int64]] = []
        self._read = 0
        self._image_bytes = 0
        self._samples: list[bytes] = []  # the first, the middle and the last image
        self._video = VideoStream() if self._type in VIDEO_TYPES else None
        self._frame: Image | None = None
        self._fault = ""

    def add(self, messages: Sequence[tuple[int, Bytes]]) -> None:
        """Take the next messages, pairs of receive time and CDR."""
        assert self._fields
        found, declared = self._fields.read([data for _, data in messages]), self._bag.topics[self.topic].declared
        receive_ns = np.array([receive_ns for receive_ns, _ in messages], np.int64)
        self._parts.append((receive_ns, found.header_ns, found.labels))
        for number, (_, data) in enumerate(messages, self._read) if self._type in IMAGE_TYPES else ():
            self._image_bytes += len(data)
            if self._video:
                self._decode_video(self._video, number, data)
            elif number in (0, declared // 2, declared - 1):
                self._samples.append(bytes(data))
        self._read += len(messages)

    def finish(self) -> TopicStats:
        """Return the statistics."""
        name, msgtype, declared = self.topic, self._type, self._bag.topics[self.topic].declared
        if not self._parts:
            return TopicStats(name, msgtype, declared, 0, None, [], None, self.error)
        receive_ns, header_ns, labels = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        clock = Clock(receive_ns, "receive", "messages of this type carry no stamp", None)
        if self._fields and self._fields.has_stamp:
            clock = choose_clock(header_ns, receive_ns, "auto")
        camera = self._camera() if msgtype in IMAGE_TYPES else None
        orders = self._orders(labels) if msgtype == JOINT_STATE else []
        return TopicStats(name, msgtype, declared, self._read, clock, orders, camera, self.error)

    def received_ns(self) -> list[int]:
        """Return the first and the last receive time that is not 0, as it is before simulation time is known."""
        times_ns = [part[0][part[0] > 0] for part in self._parts]
        return [int(part[end]) for part in times_ns if len(part) for end in (0, -1)]

    def _orders(self, labels: Int64) -> list[JointOrder]:
        """Return the orders of the names; messages that are damaged have none, and the conversion reports them."""
        assert self._fields
        labels, firsts, counts = np.unique(labels, return_index=True, return_counts=True)
        found = zip(labels.tolist(), counts.tolist(), firsts.tolist(), strict=True)
        orders = [JointOrder(self._fields.labels[label], count, first) for label, count, first in found if label >= 0]
        return sorted(orders, key=lambda order: order.first)

    def _decode_video(self, video: VideoStream, number: int, data: Bytes) -> None:
        """Decode packets until the first image."""
        if self._frame is None:
            try:
                for _, image in video.add(number, self._bag.deserialize(self.topic, data)):
                    if isinstance(image, UserError):
                        raise image
                    self._frame = image
            except UserError as error:
                self._fault = one_line(error)

    def _camera(self) -> Camera:
        mean_bytes = self._image_bytes / self._read
        if self._video:
            return Camera("video", mean_bytes, self._frame, None if self._frame is not None else self._fault)
        encoding, guess, images = "unknown", None, list[CameraImage]()
        for data in self._samples:
            try:
                message: Any = self._bag.deserialize(self.topic, data)
                encoding = str(message.encoding if hasattr(message, "encoding") else message.format).strip()
                guess = GUESSES.get(encoding)
                images.append(read_image(message, ImageRules(encoding=guess)))
            except UserError as error:
                self._fault = one_line(error)
        if not images:
            return Camera(encoding, mean_bytes, None, self._fault)
        image, sizes = images[len(images) // 2], dict.fromkeys((image.height, image.width) for image in images)
        return Camera(encoding, mean_bytes, image.rgb(), None, image.kind, image.measured, guess, tuple(sizes))


def _reader(types: Typestore, msgtype: str) -> FieldReader:
    """Return a reader of the stamps, and of joint states also of the orders of their names."""
    if msgtype == JOINT_STATE:
        return FieldReader(types, msgtype, ("name",), 0, lambda _: None)
    return stamp_reader(types, msgtype)


def changes(orders: list[JointOrder]) -> Iterator[str]:
    """Yield a description of every change of the order of joints."""
    for order in orders[1:]:
        yield f"from message {order.first} on ({order.messages} messages): {', '.join(order.names)}"

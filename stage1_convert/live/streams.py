"""The streams of a robot, message by message: numbers by their names, and images, each in a window of samples."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from common.cli.command import UserError
from common.lerobot.images import Image, resize
from stage1_convert.bags.bag import as_user_error
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import JOINTS, rule_of
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import ImageRules
from stage1_convert.images.video_topic import VideoStream
from stage1_convert.live.rules import LiveRules
from stage1_convert.live.window import Sample, Window
from stage1_convert.streams.bad_messages import number_faults
from stage1_convert.streams.joint_groups import group_joints
from stage1_convert.streams.topics import TypedTopics, dimensions, stream_fields

MOST_NUMBERS, MOST_IMAGES = 4096, 128  # that wait for a tick: more than any delay needs


class LiveStream:
    """What numbers and cameras share; `left_out` holds by stream how many messages were bad, and why the last one was."""

    def __init__(self, name: str, topic: str, source: TypedTopics, rules: LiveRules) -> None:
        self.name, self.topic, self.rules = name, topic, rules
        self._source, self._fields = source, stream_fields(name, topic, source, rules.config)
        self._skip = rules.config.data.bad_messages == "skip"
        self.left_out: dict[str, tuple[int, str]] = {}
        self.read = 0

    @abstractmethod
    def add(self, receive_ns: int, data: Bytes) -> None:
        """Take the next message of the topic, serialized."""

    def _window(self, stream: str, most: int) -> Window:
        limit_ns = rule_of(stream, self.rules.config.data).limit_ns
        return Window(self.rules.of_stream(stream)[0], limit_ns, self.rules.config.data.fps, most)

    def _leave_out(self, stream: str, fault: str) -> None:
        self.left_out[stream] = self.left_out.get(stream, (0, ""))[0] + 1, fault

    def _stamp_ns(self, stream: str, header_ns: int, receive_ns: int) -> int:
        has_header = self._fields.has_stamp and self.rules.of_stream(stream)[1] == "header"
        return header_ns if has_header else receive_ns


class Numbers(LiveStream):
    """The joints, each with a window of its own as they may come in several messages, or one field."""

    def __init__(self, name: str, topic: str, source: TypedTopics, rules: LiveRules) -> None:
        super().__init__(name, topic, source, rules)
        self.parts = tuple(rules.config.conventions.joint_order) if name == JOINTS else (name,)
        self.dimensions = dimensions(name, rules.config)
        self.windows = {
            part: self._window(f"{JOINTS}.{part}" if name == JOINTS else name, MOST_NUMBERS) for part in self.parts
        }
        self._groups = {name: self.parts}
        self._known_labels = 0
        if name in rules.config.data.initial_values:
            first = Sample(-1, 1, np.array([rules.config.data.initial_values[name]]))
            self.windows[name].add(first)

    def add(self, receive_ns: int, data: Bytes) -> None:
        """Take the next message of the topic."""
        found = self._fields.read([data])
        number, self.read = self.read, self.read + 1
        if not found.relevant[0]:
            return
        label, row = int(found.labels[0]), found.values[0]
        named = (self._fields.labels[label] if label >= 0 and self.name == JOINTS else ()) or self.parts
        for stream, parts in self.groups().items():
            if parts[0] not in named:
                continue
            names = [name for part in parts for name in self.numbers_of(part)]
            values = row[[self.dimensions.index(name) for name in names]]
            fault = number_faults(names, np.array([0]), values[None], found.faults, self.rules.config).get(0)
            if fault and self._skip:
                self._leave_out(stream, fault)
                continue
            stamp_ns = self._stamp_ns(stream, int(found.header_ns[0]), receive_ns)
            sample = Sample(number, stamp_ns, row, fault)
            if not min([self.windows[part].add(sample) for part in parts]):
                self._leave_out(stream, f"its stamp {stamp_ns} ns goes back")

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Return the joints that come together in the messages so far, by the names of their streams in a dataset."""
        labels = self._fields.labels
        if self.name == JOINTS and len(labels) > self._known_labels:
            self._known_labels = len(labels)
            found = group_joints(labels, np.arange(len(labels)), JOINTS, self.rules.config)
            self._groups = {name: tuple(self.parts[joint] for joint in group.joints) for name, group in found.items()}
        return self._groups

    def numbers_of(self, part: str) -> list[str]:
        """Return the names of a part's numbers: of a joint its position, and on demand its velocity and effort."""
        if self.name != JOINTS:
            return self.dimensions
        return self.dimensions[self.parts.index(part) :: len(self.parts)]

    def newest(self) -> dict[str, float]:
        """Return the newest value of every number, by its name; without those that have not come."""
        newest = {part: window.samples[-1] for part, window in self.windows.items() if window.samples}
        return {
            name: float(sample.values[self.dimensions.index(name)])
            for part, sample in newest.items()
            for name in self.numbers_of(part)
        }


class Camera(LiveStream):
    """A camera: its messages wait as they are, and one that a tick shows is decoded; of a video all are, as they come."""

    def __init__(self, name: str, topic: str, source: TypedTopics, rules: LiveRules) -> None:
        super().__init__(name, topic, source, rules)
        self.window = self._window(name, MOST_IMAGES)
        self._image_rules = ImageRules.of(name, rules.config.data)
        self._video = VideoStream() if source.topics[topic].type in VIDEO_TYPES else None

    def add(self, receive_ns: int, data: Bytes) -> None:
        """Take the next message of the topic."""
        found = self._fields.read([data])
        number, self.read = self.read, self.read + 1
        stamp_ns = self._stamp_ns(self.name, int(found.header_ns[0]), receive_ns)
        fault = found.faults.get(0)
        sample = Sample(number, stamp_ns, data=bytes(data), image=UserError(fault) if fault else None)
        if fault and self._skip:
            self._leave_out(self.name, fault)
        elif not self.window.add(sample):
            self._leave_out(self.name, f"its stamp {stamp_ns} ns goes back")
        elif self._video:
            self._decode_video(self._video, sample)

    def image(self, place: int) -> Image | UserError | None:
        """Return an image of the window as the policy sees it, what is wrong with it, or None where it has not come yet."""
        sample = self.window.samples[place]
        if sample.image is None and not self._video:
            try:
                sample.image = self._resized(read_image(self._message(sample), self._image_rules).rgb())
            except UserError as error:
                sample.image = error
        return sample.image

    def leave_out(self, place: int, fault: str) -> None:
        """Leave out an image of the window that is damaged."""
        self._leave_out(self.name, fault)
        del self.window.samples[place]

    def _decode_video(self, video: VideoStream, sample: Sample) -> None:
        """Give the images that are ready to the samples that wait for them, and leave out those that cannot have any."""
        for number, image in self._packet(video, sample):
            place = next((at for at, one in enumerate(self.window.samples) if one.number == number), None)
            if place is None:
                continue
            try:
                self.window.samples[place].image = image if isinstance(image, UserError) else self._resized(image)
            except UserError as error:
                self.window.samples[place].image = error
            fault = self.window.samples[place].image
            if isinstance(fault, UserError) and self._skip:
                self.leave_out(place, str(fault))

    def _packet(self, video: VideoStream, sample: Sample) -> Iterator[tuple[int, Image | UserError]]:
        try:
            message = self._message(sample)
        except UserError as error:
            return video.damaged(sample.number, error)
        return video.add(sample.number, message)

    def _message(self, sample: Sample) -> Any:
        with as_user_error():
            return self._source.types(self.topic).deserialize_cdr(sample.data, self._source.topics[self.topic].type)

    def _resized(self, image: Image) -> Image:
        wanted, size = self.rules.config.conventions.image_resize, self.rules.sizes[self.name]
        pixels = resize(image, (wanted[0], wanted[1]) if wanted else None)
        if pixels.shape[:2] != size:
            raise UserError(f"the image is {image.shape[0]}x{image.shape[1]}, those of the dataset {size[0]}x{size[1]}")
        return pixels

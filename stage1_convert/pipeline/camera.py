"""Reads the images of a bag's cameras again, in the order of the recording, and gives those that frames show.

Sample i of a camera is the one with clock.stamps_ns[i] in its Stream.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from stage1_convert.align.streams import BagStreams, Stream
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import DataConfig
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import CameraImage, ImageRules
from stage1_convert.images.video_topic import VideoDecoder, starts_video

Needed = npt.NDArray[np.bool_ | np.int64]  # (samples,), 0 for those that no frame shows
Numbered = Iterator[tuple[int, CameraImage | UserError]]  # by sample


class FollowsDamageError(UserError):
    """A packet of a video that is whole, but does not decode without a damaged one before it."""


def read_images(
    bag: Bag, bag_streams: BagStreams, needed: Mapping[str, Needed], data: DataConfig
) -> Iterator[tuple[str, int, CameraImage | UserError]]:
    """Yield (camera, sample, image) for the samples that are needed, each camera's in order.

    In place of an image that is damaged comes what is wrong with it; of a video also for packets that are not needed. Only
    the cameras in `needed` are read. JPEGs are read lazily: what is wrong behind their headers is found when they are decoded.
    """
    readers = [
        _CameraReader(ImageRules.of(name, data), bag, bag_streams.streams[name], samples)
        for name, samples in needed.items()
    ]
    for topic, _, message in bag.records(dict.fromkeys(reader.topic for reader in readers)):
        for reader in readers:
            if reader.topic == topic:
                for sample, image in reader.add(message):
                    yield reader.name, sample, image
    for reader in readers:
        for sample, image in reader.end():
            yield reader.name, sample, image


class _CameraReader:
    """Reads one camera; it deserializes only messages that frames show, or that a video needs."""

    def __init__(self, rules: ImageRules, bag: Bag, stream: Stream, needed: Needed) -> None:
        self.name, self.topic, self._rules = rules.camera, stream.topic, rules
        self._bag, self._stream, self._needed = bag, stream, needed
        self._is_video = bag.topics[self.topic].type in VIDEO_TYPES
        if self._is_video and rules.encoding:
            raise UserError(
                f"data.encodings={{{self.name}: {rules.encoding}}} cannot describe the video of topic {self.topic}, whose "
                "packets say it themselves; remove it"
            )
        self._video: VideoDecoder | None = None
        self._awaits_key_frame = False  # after a packet that is damaged or left out
        self._message = -1
        self._sample = 0

    def add(self, data: Bytes) -> Numbered:
        """Take the next message of the topic."""
        self._message += 1
        sample, numbers = self._sample, self._stream.numbers
        if sample == len(numbers) or numbers[sample] != self._message:
            if self._video is not None:
                yield from self.end()
                self._awaits_key_frame = True
            return
        self._sample += 1
        if self._is_video:
            yield from self._packet(sample, data)
        elif self._needed[sample]:
            try:
                yield sample, read_image(self._bag.deserialize(self.topic, data), self._rules, lazy=True)
            except UserError as error:
                yield sample, error

    def end(self) -> Numbered:
        """Give what a video still holds back."""
        if self._video is not None:
            try:
                yield from self._shown(self._video.end())
            except UserError as error:
                yield from self._damaged(self._sample - 1, error)
            self._video = None

    def _packet(self, sample: int, data: Bytes) -> Numbered:
        try:
            packet: Any = self._bag.deserialize(self.topic, data)
            if self._awaits_key_frame and not starts_video(packet):
                yield sample, FollowsDamageError("it does not decode without the packets before it, which are left out")
                return
            self._awaits_key_frame = False
            self._video = self._video or VideoDecoder()
            yield from self._shown(self._video.add(sample, packet))
        except UserError as error:
            yield from self._damaged(sample, error)

    def _damaged(self, sample: int, error: UserError) -> Numbered:
        """Give up on the packets whose images have not come, and go on with the next key frame."""
        first = sample if self._video is None else min(self._video.next, sample)
        for held_back in range(first, sample):
            yield held_back, FollowsDamageError(f"its image has not come before packet {sample}, which is damaged")
        yield sample, error
        self._video, self._awaits_key_frame = None, True

    def _shown(self, images: Iterator[tuple[int, Any]]) -> Numbered:
        for sample, pixels in images:
            if self._needed[sample]:
                yield sample, CameraImage.of_pixels(pixels, "video")

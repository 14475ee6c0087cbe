"""Reads the images of a bag's cameras again, in the order of the recording, and gives those that frames show.

Sample i of a camera is the one with clock.stamps_ns[i] in its Stream.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.images import Image
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import DataConfig
from stage1_convert.images.decode import read_image
from stage1_convert.images.image import CameraImage, ImageRules
from stage1_convert.images.video_topic import VideoStream
from stage1_convert.streams.stream import BagStreams, Stream

Needed = npt.NDArray[np.bool_ | np.int64]  # (samples,), 0 for those that no frame shows
Numbered = Iterator[tuple[int, CameraImage | UserError]]  # by sample


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
        self._video = VideoStream() if bag.topics[self.topic].type in VIDEO_TYPES else None
        if self._video and rules.encoding:
            raise UserError(
                f"data.encodings={{{self.name}: {rules.encoding}}} cannot describe the video of topic {self.topic}, whose "
                "packets say it themselves; remove it"
            )
        self._message = -1
        self._sample = 0

    def add(self, data: Bytes) -> Numbered:
        """Take the next message of the topic."""
        self._message += 1
        sample, numbers = self._sample, self._stream.numbers
        if sample == len(numbers) or numbers[sample] != self._message:
            yield from self.end()
            return
        self._sample += 1
        if self._video:
            yield from self._shown(self._packet(self._video, sample, data))
        elif self._needed[sample]:
            try:
                yield sample, read_image(self._bag.deserialize(self.topic, data), self._rules, lazy=True)
            except UserError as error:
                yield sample, error

    def end(self) -> Numbered:
        """Give what a video still holds back."""
        return self._shown(self._video.end()) if self._video else iter(())

    def _packet(self, video: VideoStream, sample: int, data: Bytes) -> Iterator[tuple[int, Image | UserError]]:
        try:
            packet = self._bag.deserialize(self.topic, data)
        except UserError as error:
            return video.damaged(sample, error)
        return video.add(sample, packet)

    def _shown(self, images: Iterator[tuple[int, Image | UserError]]) -> Numbered:
        for sample, image in images:
            if isinstance(image, UserError):
                yield sample, image
            elif self._needed[sample]:
                yield sample, CameraImage.of_pixels(image, "video")

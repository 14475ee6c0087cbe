"""An open bag and its tape in; the images of those samples that frames show, in the order of the recording, out.

Samples are numbered as in the tape: sample i of a camera is the one with clock.stamps_ns[i].
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from stage1_convert.align.streams import BagStreams, Stream
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.storage import Bytes
from stage1_convert.images.decode import Still, read_still, still_of
from stage1_convert.images.video_topic import VIDEO_TYPES, VideoDecoder


def read_images(
    bag: Bag,
    tape: BagStreams,
    needed: Mapping[str, npt.NDArray[np.bool_ | np.int32]],
    depth_range_m: Sequence[float],
    trust: bool = False,
) -> Iterator[tuple[str, int, Still]]:
    """Yield (camera, sample, image) for the samples that are needed, each camera's in order.

    `needed` has an array (samples,) for each camera that is read, 0 for those that are not. With `trust` JPEGs are not
    decoded (their pixels are None). Raises UserError, naming camera, message and stamp, when an image is damaged.
    """
    cameras = {camera: _Camera(camera, bag, tape.streams[camera], marks) for camera, marks in needed.items()}
    camera_of = {camera.stream.topic: camera for camera in cameras.values()}
    for topic, _, data in bag.records(camera_of):
        camera = camera_of[topic]
        for sample, still in camera.add(data, depth_range_m, trust):
            yield camera.name, sample, still
    for camera in cameras.values():
        for sample, still in camera.end():
            yield camera.name, sample, still


class _Camera:
    """One camera while its topic is read; only samples that are needed, or that a video needs, are taken apart."""

    def __init__(self, name: str, bag: Bag, stream: Stream, needed: npt.NDArray[np.bool_ | np.int32]) -> None:
        self.name, self.stream = name, stream
        self._bag, self._needed = bag, needed
        self._video = VideoDecoder() if bag.topics[stream.topic].type in VIDEO_TYPES else None
        self._message = -1
        self._sample = 0

    def add(self, data: Bytes, depth_range_m: Sequence[float], trust: bool) -> Iterator[tuple[int, Still]]:
        """Take the next message of the topic."""
        self._message += 1
        sample = self._sample
        if sample == len(self.stream.numbers) or self.stream.numbers[sample] != self._message:
            return
        self._sample += 1
        if self._video is None and not self._needed[sample]:
            return
        try:
            content: Any = self._bag.deserialize(self.stream.topic, data)
            if self._video is None:
                yield sample, read_still(content, depth_range_m, trust)
                return
            yield from self._shown(self._video.add(sample, content))
        except UserError as error:
            raise self._named(sample, error) from error

    def end(self) -> Iterator[tuple[int, Still]]:
        """Give what a video still holds back."""
        if self._video:
            try:
                yield from self._shown(self._video.end())
            except UserError as error:
                raise self._named(self._sample - 1, error) from error

    def _shown(self, images: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Still]]:
        for sample, pixels in images:
            if self._needed[sample]:
                yield sample, still_of(pixels)

    def _named(self, sample: int, error: UserError) -> UserError:
        stamp_ns = self.stream.clock.stamps_ns[sample]
        number = self.stream.numbers[sample]
        return UserError(f"camera {self.name}, message {number} stamped {stamp_ns} ns: {error}")

"""Turns the images of a bag into the images of its frames, as the dataset stores them, in one reading."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from common.cli.command import UserError
from common.lerobot.images import resize
from stage1_convert.align.episodes import EpisodePlan
from stage1_convert.align.streams import BagStreams
from stage1_convert.bags.bag import Bag
from stage1_convert.config import Config
from stage1_convert.dataset.image_column import StoredImage
from stage1_convert.dataset.stats import histogram, sample_frames
from stage1_convert.images.encode import encode
from stage1_convert.images.image import CameraImage
from stage1_convert.images.range_use import RangeUse
from stage1_convert.pipeline.camera import message_named, read_images


class FrameReader:
    """Reads the images of one bag.

    `sizes` holds each camera's (height, width) as soon as it has been seen, `compressed` the cameras of which an image
    lost detail here, `range_use` how the ranges of the settings cover what was measured.
    """

    def __init__(
        self, bag: Bag, bag_streams: BagStreams, plan: EpisodePlan, config: Config, trust_images: bool
    ) -> None:
        self._bag, self._bag_streams, self._plan, self._config = bag, bag_streams, plan, config
        self._trust = trust_images
        self.sizes: dict[str, tuple[int, int]] = {}
        self.compressed: set[str] = set()
        self.range_use = RangeUse()
        self._last: dict[str, CameraImage] = {}

    def frames(self) -> Iterator[dict[str, StoredImage]]:
        """Yield every frame's images by camera, over all episodes in order."""
        plan, streams, data = self._plan, self._bag_streams.streams, self._config.data
        uses = {name: np.bincount(plan.shown(name), minlength=len(streams[name].numbers)) for name in data.cameras}
        ticks = np.concatenate([span.start + sample_frames(span.frames) for span in plan.episodes])
        measured = {name: set(plan.picks[name][ticks].tolist()) for name in data.cameras}
        waiting: dict[str, deque[StoredImage]] = {name: deque() for name in data.cameras}
        for name, sample, image in read_images(self._bag, self._bag_streams, uses, data, self._trust):
            with message_named(name, streams[name], sample):
                stored = self._store(name, image, sample in measured[name])
            waiting[name].extend([stored] * int(uses[name][sample]))
            while all(waiting.values()):
                yield {camera: queue.popleft() for camera, queue in waiting.items()}

    def _store(self, camera: str, image: CameraImage, is_measured: bool) -> StoredImage:
        """Return an image as the dataset stores it, with its histogram if it is measured."""
        last, self._last[camera] = self._last.get(camera), image
        self.range_use.add(camera, image)
        identical = last is not None and _is_same(last, image)
        conventions, storage = self._config.conventions, self._config.data.storage
        recorded = image.height, image.width
        size = (conventions.image_resize[0], conventions.image_resize[1]) if conventions.image_resize else recorded
        if self.sizes.setdefault(camera, size) != size:
            before = "{}x{}".format(*self.sizes[camera])
            raise UserError(
                f"the image is {size[0]}x{size[1]}, the ones before it {before}; conventions.image_resize, such as "
                f"[{self.sizes[camera][0]}, {self.sizes[camera][1]}], makes them alike"
            )
        if image.file is not None and image.file_format == storage and size == recorded:
            return StoredImage(image.file, None, histogram(image.rgb()) if is_measured else None, identical)
        pixels = resize(image.rgb(), size)
        counts = histogram(pixels) if is_measured else None
        if storage == "video":
            return StoredImage(b"", pixels, counts, identical)
        if storage == "jpeg":
            self.compressed.add(camera)
        return StoredImage(encode(pixels, storage, conventions.jpeg_quality), None, counts, identical)


def _is_same(one: CameraImage, two: CameraImage) -> bool:
    if one.file is not None and two.file is not None:
        return one.file == two.file
    if one.pixels is None or two.pixels is None or one.pixels.shape != two.pixels.shape:
        return False
    # A few rows tell most images apart.
    return np.array_equal(one.pixels[::64], two.pixels[::64]) and np.array_equal(one.pixels, two.pixels)

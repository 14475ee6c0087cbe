"""Turns the images of a bag into the images of its frames, as the dataset stores them, in one reading."""

import contextlib
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from common.lerobot.images import resize
from stage1_convert.align.bad_messages import BadMessage
from stage1_convert.align.episodes import EpisodePlan
from stage1_convert.align.streams import BagStreams
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.config import Config
from stage1_convert.dataset.image_column import StoredImage
from stage1_convert.dataset.stats import histogram, sample_frames
from stage1_convert.images.compressed import verify_jpeg
from stage1_convert.images.encode import encode
from stage1_convert.images.image import CameraImage
from stage1_convert.images.range_use import RangeUse
from stage1_convert.images.video_topic import FollowsDamageError
from stage1_convert.pipeline.camera import Needed, Read, read_images
from stage1_convert.pipeline.in_order import ImageThreads

BATCH_BYTES = 4 << 20  # of pixels, if all images of a batch are decoded


class BadImagesError(Exception):
    """Frames show images that are damaged, so that they have to be planned again without these."""


class _Recorded(NamedTuple):
    """An image that frames show; `only_verify`: nothing else is of use, because one before it is damaged."""

    camera: str
    sample: int
    read: Read
    is_measured: bool
    only_verify: bool


class _Prepared(NamedTuple):
    """A verified image, or what is wrong with it, and what the dataset stores of it, or why it cannot."""

    image: CameraImage | UserError
    stored: StoredImage | UserError | None = None

    @property
    def is_odd(self) -> bool:
        """Whether something is wrong with it or odd about it."""
        return isinstance(self.image, UserError) or isinstance(self.stored, UserError) or bool(self.image.oddity)


class FrameReader:
    """Reads the images of one bag, and adds the numbers of the messages that it looks at to `looked_at`, by camera.

    `sizes` holds each camera's (height, width) as soon as it has been seen, `compressed` the cameras of which an image
    lost detail here, `range_use` how the ranges of the settings cover what was measured. `bad` are the messages that are
    damaged, and `odd` those with something odd that is no damage.
    """

    def __init__(
        self,
        bag: Bag,
        bag_streams: BagStreams,
        plan: EpisodePlan,
        config: Config,
        trust_images: bool,
        looked_at: Mapping[str, set[int]],
        threads: int = 1,
    ) -> None:
        self._bag, self._streams, self._plan, self._config = bag, bag_streams, plan, config
        self._trust, self._looked_at, self._threads = trust_images, looked_at, threads
        self._pixels = 0  # of the largest image so far
        self.sizes: dict[str, tuple[int, int]] = {}
        self.compressed: set[str] = set()
        self.range_use = RangeUse()
        self.bad: dict[str, list[BadMessage]] = {}
        self.odd: dict[str, list[BadMessage]] = {}
        self._last: dict[str, CameraImage] = {}

    def frames(self) -> Generator[dict[str, StoredImage], None, None]:
        """Yield every frame's images by camera, over all episodes in order.

        From the first damaged image on, images are only looked at, and BadImagesError is raised at the end. Raises
        UserError, naming the camera, the message and its stamp, when an image is damaged and data.bad_messages is refuse,
        or when images are of several sizes.
        """
        plan, streams, data = self._plan, self._streams.streams, self._config.data
        uses = {name: np.bincount(plan.shown(name), minlength=len(streams[name].numbers)) for name in data.cameras}
        waiting: dict[str, deque[StoredImage]] = {name: deque() for name in data.cameras}
        for name in data.cameras:
            if self._bag.topics[streams[name].topic].type in VIDEO_TYPES:  # every packet is decoded
                self._looked_at[name].update(streams[name].numbers.tolist())
        threads = ImageThreads(self._threads, self._prepare, self._batch_size, lambda done: done.is_odd)
        with contextlib.closing(threads.results(self._recorded(uses))) as results:
            for (name, sample, *_), prepared in results:
                self._looked_at[name].add(int(streams[name].numbers[sample]))
                stored = self._accept(name, sample, prepared)
                if stored is not None:
                    waiting[name].extend([stored] * int(uses[name][sample]))
                    while all(waiting.values()):
                        yield {camera: queue.popleft() for camera, queue in waiting.items()}
        if self.bad:
            raise BadImagesError

    def _recorded(self, uses: Mapping[str, Needed]) -> Iterator[_Recorded]:
        """Yield the images that frames show."""
        plan = self._plan
        ticks = np.concatenate([span.start + sample_frames(span.frames) for span in plan.episodes])
        measured = {name: set(plan.picks[name][ticks].tolist()) for name in uses}
        for name, sample, read in read_images(self._bag, self._streams, uses, self._config.data):
            yield _Recorded(name, sample, read, sample in measured[name], only_verify=bool(self.bad))

    def _batch_size(self) -> int:
        """Return how many images are computed together: few enough that all of them may lie decoded in memory."""
        return max(self._threads, BATCH_BYTES // (3 * self._pixels) if self._pixels else 0)

    def _prepare(self, recorded: _Recorded) -> _Prepared:
        """Read, verify and store an image, in any thread."""
        is_measured = recorded.is_measured
        try:
            image = recorded.read()
            if image.pixels is None and not self._trust:
                whole = not recorded.only_verify and (is_measured or not self._stays(image))
                image = verify_jpeg(image, whole)
        except UserError as error:
            return _Prepared(error)
        if recorded.only_verify:
            return _Prepared(image)
        try:
            return _Prepared(image, self._store(image, is_measured))
        except UserError as error:  # a file that was trusted unseen
            return _Prepared(image, error)

    def _accept(self, camera: str, sample: int, prepared: _Prepared) -> StoredImage | None:
        """Take an image, in the order of the recording; return it as the dataset stores it, None when it is of no use."""
        image, stored = prepared
        if isinstance(image, UserError):
            self._leave_out(camera, sample, image)
            return None
        if self.bad:
            return None
        self._pixels = max(self._pixels, image.height * image.width)
        size = self._size(image)
        if self.sizes.setdefault(camera, size) != size:
            before = "{}x{}".format(*self.sizes[camera])
            raise UserError(
                f"{self._name(camera, sample)}: the image is {size[0]}x{size[1]}, the ones before it {before}; "
                f"conventions.image_resize, such as [{self.sizes[camera][0]}, {self.sizes[camera][1]}], makes them alike"
            )
        if image.oddity:
            self.odd.setdefault(camera, []).append(self._noted(camera, sample, image.oddity))
        if isinstance(stored, UserError):
            self._leave_out(camera, sample, stored)
            return None
        assert stored is not None, "only images behind a damaged one are not stored"
        last, self._last[camera] = self._last.get(camera), image
        self.range_use.add(camera, image)
        if self._config.data.storage == "jpeg" and not self._stays(image):
            self.compressed.add(camera)
        return stored._replace(identical=last is not None and _is_same(last, image))

    def _size(self, image: CameraImage) -> tuple[int, int]:
        """Return the height and width in which the dataset stores an image."""
        resized = self._config.conventions.image_resize
        return (resized[0], resized[1]) if resized else (image.height, image.width)

    def _stays(self, image: CameraImage) -> bool:
        """Return whether the dataset stores the recorded file."""
        is_stored = image.file is not None and image.file_format == self._config.data.storage
        return is_stored and self._size(image) == (image.height, image.width)

    def _leave_out(self, camera: str, sample: int, error: UserError) -> None:
        if self._config.data.bad_messages == "refuse":
            raise UserError(f"{self._name(camera, sample)}: {error}; data.bad_messages=skip leaves it out") from error
        message = self._noted(camera, sample, str(error))
        self.bad.setdefault(camera, []).append(message._replace(follows=isinstance(error, FollowsDamageError)))

    def _noted(self, camera: str, sample: int, reason: str) -> BadMessage:
        stream = self._streams.streams[camera]
        return BadMessage(int(stream.numbers[sample]), int(stream.clock.stamps_ns[sample]), reason)

    def _name(self, camera: str, sample: int) -> str:
        message = self._noted(camera, sample, "")
        return f"camera {camera}, message {message.number} stamped {message.stamp_ns} ns"

    def _store(self, image: CameraImage, is_measured: bool) -> StoredImage:
        """Return an image as the dataset stores it, with its histogram if it is measured."""
        if image.file is not None and self._stays(image):
            return StoredImage(image.file, None, histogram(image.rgb()) if is_measured else None)
        storage, pixels = self._config.data.storage, resize(image.rgb(), self._size(image))
        counts = histogram(pixels) if is_measured else None
        if storage == "video":
            return StoredImage(b"", pixels, counts)
        return StoredImage(encode(pixels, storage, self._config.conventions.jpeg_quality), None, counts)


def _is_same(one: CameraImage, two: CameraImage) -> bool:
    if one.file is not None and two.file is not None:
        return one.file == two.file
    if one.pixels is None or two.pixels is None or one.pixels.shape != two.pixels.shape:
        return False
    # A few rows tell most images apart.
    return np.array_equal(one.pixels[::64], two.pixels[::64]) and np.array_equal(one.pixels, two.pixels)

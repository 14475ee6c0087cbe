"""Turns the images of a bag into the images of its frames, as the dataset stores them, in one reading."""

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np

from common.cli.command import UserError
from common.lerobot.images import resize
from stage1_convert.align.episodes import EpisodePlan
from stage1_convert.bags.bag import Bag
from stage1_convert.bags.message_types import VIDEO_TYPES
from stage1_convert.config import Config
from stage1_convert.dataset.image_column import StoredImage
from stage1_convert.dataset.stats import histogram, sample_frames
from stage1_convert.images.compressed import verify_jpeg
from stage1_convert.images.encode import encode
from stage1_convert.images.image import CameraImage
from stage1_convert.images.shades import Measured
from stage1_convert.images.video_topic import FollowsDamageError
from stage1_convert.pipeline.camera import read_images
from stage1_convert.streams.bad_messages import BadMessage
from stage1_convert.streams.stream import BagStreams


class BadImagesError(Exception):
    """Frames show images that are damaged, so that they have to be planned again without these."""


class FrameReader:
    """Reads the images of one bag, and adds the numbers of the messages that it looks at to `looked_at`, by camera.

    `sizes` holds each camera's (height, width) as soon as it has been seen, `compressed` the cameras of which an image
    lost detail here, `ranges` what was measured in images of more than 8 bits, by camera and whether it is depth. `bad` are
    the messages that are damaged, and `odd` those with something odd that is no damage.
    """

    def __init__(
        self,
        bag: Bag,
        bag_streams: BagStreams,
        plan: EpisodePlan,
        config: Config,
        trust_images: bool,
        looked_at: Mapping[str, set[int]],
    ) -> None:
        self._bag, self._streams, self._plan, self._config = bag, bag_streams, plan, config
        self._trust, self._looked_at = trust_images, looked_at
        self.sizes: dict[str, tuple[int, int]] = {}
        self.compressed: set[str] = set()
        self.ranges: dict[tuple[str, bool], list[Measured]] = {}
        self.bad: dict[str, list[BadMessage]] = {}
        self.odd: dict[str, list[BadMessage]] = {}
        self._last: dict[str, CameraImage] = {}

    def frames(self) -> Iterator[dict[str, StoredImage]]:
        """Yield every frame's images by camera, over all episodes in order.

        From the first damaged image on, images are only looked at, and BadImagesError is raised at the end. Raises
        UserError, naming the camera, the message and its stamp, when an image is damaged and data.bad_messages is refuse,
        or when images are of several sizes.
        """
        plan, streams, data = self._plan, self._streams.streams, self._config.data
        uses = {name: np.bincount(plan.shown(name), minlength=len(streams[name].numbers)) for name in data.cameras}
        ticks = np.concatenate([span.start + sample_frames(span.frames) for span in plan.episodes])
        measured = {name: set(plan.picks[name][ticks].tolist()) for name in data.cameras}
        waiting: dict[str, deque[StoredImage]] = {name: deque() for name in data.cameras}
        for name in data.cameras:
            if self._bag.topics[streams[name].topic].type in VIDEO_TYPES:  # every packet is decoded
                self._looked_at[name].update(streams[name].numbers.tolist())
        for name, sample, image in read_images(self._bag, self._streams, uses, data):
            self._looked_at[name].add(int(streams[name].numbers[sample]))
            stored = self._stored(name, sample, image, sample in measured[name])
            if stored is not None:
                waiting[name].extend([stored] * int(uses[name][sample]))
                while all(waiting.values()):
                    yield {camera: queue.popleft() for camera, queue in waiting.items()}
        if self.bad:
            raise BadImagesError

    def _stored(
        self, camera: str, sample: int, image: CameraImage | UserError, is_measured: bool
    ) -> StoredImage | None:
        """Return an image as the dataset stores it, with its histogram if it is measured; None when it is of no use."""
        image = self._verified(image, is_measured)
        if isinstance(image, UserError):
            self._leave_out(camera, sample, image)
            return None
        if self.bad:
            return None
        size = self._size(image)
        if self.sizes.setdefault(camera, size) != size:
            before = "{}x{}".format(*self.sizes[camera])
            raise UserError(
                f"{self._name(camera, sample)}: the image is {size[0]}x{size[1]}, the ones before it {before}; "
                f"conventions.image_resize, such as [{self.sizes[camera][0]}, {self.sizes[camera][1]}], makes them alike"
            )
        if image.oddity:
            self.odd.setdefault(camera, []).append(self._noted(camera, sample, image.oddity))
        try:
            return self._store(camera, image, is_measured)
        except UserError as error:  # a file that was trusted unseen
            self._leave_out(camera, sample, error)
            return None

    def _verified(self, image: CameraImage | UserError, is_measured: bool) -> CameraImage | UserError:
        """Return an image with its pixels where they are needed, verified unless it is trusted; or what is wrong with it."""
        if isinstance(image, UserError) or image.pixels is not None or self._trust:
            return image
        try:
            return verify_jpeg(image, whole=not self.bad and (is_measured or not self._stays(image)))
        except UserError as error:
            return error

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

    def _store(self, camera: str, image: CameraImage, is_measured: bool) -> StoredImage:
        last, self._last[camera] = self._last.get(camera), image
        if image.measured is not None:
            self.ranges.setdefault((camera, "depth" in image.kind), []).append(image.measured)
        identical = last is not None and _is_same(last, image)
        if image.file is not None and self._stays(image):
            return StoredImage(image.file, None, histogram(image.rgb()) if is_measured else None, identical)
        storage, pixels = self._config.data.storage, resize(image.rgb(), self._size(image))
        counts = histogram(pixels) if is_measured else None
        if storage == "video":
            return StoredImage(b"", pixels, counts, identical)
        if storage == "jpeg":
            self.compressed.add(camera)
        return StoredImage(encode(pixels, storage, self._config.conventions.jpeg_quality), None, counts, identical)


def _is_same(one: CameraImage, two: CameraImage) -> bool:
    if one.file is not None and two.file is not None:
        return one.file == two.file
    if one.pixels is None or two.pixels is None or one.pixels.shape != two.pixels.shape:
        return False
    # A few rows tell most images apart.
    return np.array_equal(one.pixels[::64], two.pixels[::64]) and np.array_equal(one.pixels, two.pixels)

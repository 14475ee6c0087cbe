"""An open bag and its plan in; every frame's pictures, as the dataset stores them, out: one reading, little memory."""

from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from common.command import UserError
from common.pictures import Picture
from stage1_convert import decode, stats
from stage1_convert.bag import Bag
from stage1_convert.config import Config
from stage1_convert.plan import Plan
from stage1_convert.tape import Tape

TRUSTED_SAMPLE = (
    16  # of the pictures that are trusted, every 16th, and an episode's first, is decoded for the statistics
)
PNG_LEVEL = 1  # level 6 takes five times as long for a few per cent


class Shot(NamedTuple):
    """A stored picture: its file and, where it was decoded, the picture and how often each value occurs (3, 256).

    `repeated` tells that another message before it showed the same picture to the byte.
    """

    data: bytes
    picture: Picture | None
    histogram: npt.NDArray[np.int64] | None
    repeated: bool


class Shots:
    """Reads the pictures of one bag; `sizes` holds each camera's (height, width) as soon as it has been seen."""

    def __init__(self, bag: Bag, tape: Tape, plan: Plan, config: Config, trust_images: bool) -> None:
        self._bag, self._tape, self._plan, self._config, self._trust = bag, tape, plan, config, trust_images
        self.sizes: dict[str, tuple[int, int]] = {}
        self._taken = dict.fromkeys(config.data.cameras, 0)
        self._firsts = {c: {int(plan.picks[c][span.start]) for span in plan.episodes} for c in config.data.cameras}
        self._last: dict[str, npt.NDArray[np.uint8]] = {}

    def frames(self) -> Iterator[dict[str, Shot]]:
        """Yield every frame's pictures by camera, over all episodes in order."""
        plan, tape = self._plan, self._tape
        camera_of = {tape.streams[camera].topic: camera for camera in self._config.data.cameras}
        ticks = np.concatenate([np.arange(span.start, span.stop) for span in plan.episodes])
        uses = {
            c: np.bincount(plan.picks[c][ticks], minlength=len(tape.clocks[c].stamps_ns)) for c in camera_of.values()
        }
        waiting: dict[str, deque[Shot]] = {camera: deque() for camera in camera_of.values()}
        seen = dict.fromkeys(waiting, 0)
        for message in self._bag.messages(camera_of):
            camera = camera_of[message.topic]
            number, seen[camera] = seen[camera], seen[camera] + 1
            if not uses[camera][number]:
                continue
            try:
                shot = self._take(camera, message.content, number in self._firsts[camera])
            except UserError as error:
                stamp_ns = tape.clocks[camera].stamps_ns[number]
                raise UserError(f"camera {camera}, message {number} stamped {stamp_ns} ns: {error}") from error
            waiting[camera].extend([shot] * int(uses[camera][number]))
            while all(waiting.values()):
                yield {camera: queue.popleft() for camera, queue in waiting.items()}

    def _take(self, camera: str, message: Any, first: bool) -> Shot:
        last, self._last[camera] = self._last.get(camera), message.data
        repeated = last is not None and np.array_equal(last, message.data)
        turn, self._taken[camera] = self._taken[camera], self._taken[camera] + 1
        data, picture, (height, width) = self._store(message, first or turn % TRUSTED_SAMPLE == 0)
        if self.sizes.setdefault(camera, (height, width)) != (height, width):
            before = "{}x{}".format(*self.sizes[camera])
            raise UserError(f"the picture is {height}x{width}, the ones before it {before}")
        return Shot(data, picture, None if picture is None else stats.histogram(picture), repeated)

    def _store(self, message: Any, looked_at: bool) -> tuple[bytes, Picture | None, tuple[int, int]]:
        """Return the file to store, the picture it decodes to unless it is trusted unseen, and its (height, width)."""
        rules, storage = self._config.conventions, self._config.data.storage
        size = (rules.image_resize[0], rules.image_resize[1]) if rules.image_resize else None
        if storage == "jpeg":
            untouched = decode.untouched_jpeg(message, size) if self._trust and not looked_at else None
            if untouched:
                return untouched[0], None, untouched[1]
            data, picture = decode.to_jpeg(message, size, rules.jpeg_quality)
        else:
            picture = decode.to_picture(message, size)
            data = _png(picture) if storage == "png" else b""
        return data, picture, (picture.shape[0], picture.shape[1])


def _png(picture: Picture) -> bytes:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])[1].tobytes()

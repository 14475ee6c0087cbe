"""An open bag and its plan in; every frame's pictures, as the dataset stores them, out: one reading, little memory."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.command import UserError
from common.pictures import Picture
from stage1_convert import decode, stats
from stage1_convert.bag import Bag
from stage1_convert.camera import read_pictures
from stage1_convert.config import Config
from stage1_convert.plan import Plan
from stage1_convert.tape import Tape


class Shot(NamedTuple):
    """A stored picture: its file (none of its own in a video), its pixels and their stats.tally, both None where
    it is trusted unseen. Pixels that are encoded here are taken as they were before.

    `repeated` tells that the message before it showed the same picture, to the byte.
    """

    data: bytes
    picture: Picture | None
    tally: npt.NDArray[np.int64] | None
    repeated: bool


class Shots:
    """Reads the pictures of one bag; `sizes` holds each camera's (height, width) as soon as it has been seen."""

    def __init__(self, bag: Bag, tape: Tape, plan: Plan, config: Config, trust_images: bool) -> None:
        self._bag, self._tape, self._plan, self._config, self._trust = bag, tape, plan, config, trust_images
        resize = config.conventions.image_resize
        self._size = (resize[0], resize[1]) if resize else None
        self.sizes: dict[str, tuple[int, int]] = {}
        self._last: dict[str, decode.Still] = {}

    def frames(self) -> Iterator[dict[str, Shot]]:
        """Yield every frame's pictures by camera, over all episodes in order."""
        plan, cameras = self._plan, self._config.data.cameras
        ticks = np.concatenate([np.arange(span.start, span.stop) for span in plan.episodes])
        uses = {c: np.bincount(plan.picks[c][ticks], minlength=len(self._tape.streams[c].numbers)) for c in cameras}
        firsts = {c: {int(plan.picks[c][span.start]) for span in plan.episodes} for c in cameras}
        waiting: dict[str, deque[Shot]] = {camera: deque() for camera in cameras}
        needed = {camera: times > 0 for camera, times in uses.items()}
        pictures = read_pictures(self._bag, self._tape, needed, self._config.data.depth_range_m, self._trust)
        for camera, sample, still in pictures:
            try:
                shot = self._take(camera, still, sample in firsts[camera])
            except UserError as error:
                stream = self._tape.streams[camera]
                number, stamp_ns = stream.numbers[sample], stream.clock.stamps_ns[sample]
                raise UserError(f"camera {camera}, message {number} stamped {stamp_ns} ns: {error}") from error
            waiting[camera].extend([shot] * int(uses[camera][sample]))
            while all(waiting.values()):
                yield {name: queue.popleft() for name, queue in waiting.items()}

    def _take(self, camera: str, still: decode.Still, first: bool) -> Shot:
        last, self._last[camera] = self._last.get(camera), still
        repeated = last is not None and _same(last, still)
        data, picture = self._store(still, first)
        size = picture.shape[:2] if picture is not None else (still.height, still.width)
        if self.sizes.setdefault(camera, (size[0], size[1])) != size:
            before = "{}x{}".format(*self.sizes[camera])
            raise UserError(f"the picture is {size[0]}x{size[1]}, the ones before it {before}")
        return Shot(data, picture, None if picture is None else stats.tally(picture), repeated)

    def _store(self, still: decode.Still, first: bool) -> tuple[bytes, Picture | None]:
        """Return the file to store and its pixels, None when they are trusted unseen.

        An episode's first picture is always looked at: there is something to tell of every episode.
        """
        storage = self._config.data.storage
        passes = still.file is not None and still.form == storage and self._size in (None, (still.height, still.width))
        if passes and still.file is not None and (still.pixels is not None or not first):
            return still.file, still.pixels
        pixels = still.pixels if still.pixels is not None else decode.decode_sound(still.file or b"")
        if passes and still.file is not None:
            return still.file, pixels
        picture = decode.resize(pixels, self._size)
        if storage == "video":
            return b"", picture
        return decode.encode(picture, storage, self._config.conventions.jpeg_quality), picture


def _same(one: decode.Still, two: decode.Still) -> bool:
    if one.file is not None and two.file is not None:
        return one.file == two.file
    if one.pixels is None or two.pixels is None or one.pixels.shape != two.pixels.shape:
        return False
    # A few rows tell most pictures apart.
    return np.array_equal(one.pixels[::64], two.pixels[::64]) and np.array_equal(one.pixels, two.pixels)

"""An open bag and its plan in; every frame's images, as the dataset stores them, out: one reading, little memory."""

from collections import deque
from collections.abc import Iterator

import numpy as np

from common.cli.command import UserError
from common.lerobot.images import resize
from stage1_convert.align.episodes import EpisodePlan
from stage1_convert.align.spool import forget
from stage1_convert.align.streams import BagStreams
from stage1_convert.bags.bag import Bag
from stage1_convert.config import Config
from stage1_convert.dataset import stats
from stage1_convert.dataset.image_column import StoredImage
from stage1_convert.images import decode
from stage1_convert.pipeline.camera import SEEN_OF_TRUSTED, read_images


class Shots:
    """Reads the images of one bag; `sizes` holds each camera's (height, width) as soon as it has been seen, `compressed`
    the cameras of which an image lost detail here.
    """

    def __init__(self, bag: Bag, tape: BagStreams, plan: EpisodePlan, config: Config, trust_images: bool) -> None:
        self._bag, self._tape, self._plan, self._config, self._trust = bag, tape, plan, config, trust_images
        resize = config.conventions.image_resize
        self._size = (resize[0], resize[1]) if resize else None
        self.sizes: dict[str, tuple[int, int]] = {}
        self.compressed: set[str] = set()
        self._last: dict[str, decode.Still] = {}

    def frames(self) -> Iterator[dict[str, StoredImage]]:
        """Yield every frame's images by camera, over all episodes in order."""
        plan, cameras = self._plan, self._config.data.cameras
        uses = {c: plan.uses(c, len(self._tape.streams[c].numbers)) for c in cameras}
        firsts = {c: {int(plan.picks[c][span.start]) for span in plan.episodes} for c in cameras}
        waiting: dict[str, deque[StoredImage]] = {camera: deque() for camera in cameras}
        images = read_images(self._bag, self._tape, uses, self._config.data.depth_range_m, self._trust)
        for camera, sample, still in images:
            try:
                # An episode's first image is always looked at: there is something to tell of every episode.
                shot = self._take(camera, still, sample, sample in firsts[camera] or sample % SEEN_OF_TRUSTED == 0)
            except UserError as error:
                stream = self._tape.streams[camera]
                number, stamp_ns = stream.numbers[sample], stream.clock.stamps_ns[sample]
                raise UserError(f"camera {camera}, message {number} stamped {stamp_ns} ns: {error}") from error
            waiting[camera].extend([shot] * int(uses[camera][sample]))
            if sample in firsts[camera]:
                forget(uses[camera])
            while all(waiting.values()):
                yield {name: queue.popleft() for name, queue in waiting.items()}

    def _take(self, camera: str, still: decode.Still, sample: int, looked_at: bool) -> StoredImage:
        last, self._last[camera] = self._last.get(camera), still
        repeated = last is not None and _same(last, still)
        size, storage = self._size or (still.height, still.width), self._config.data.storage
        if self.sizes.setdefault(camera, size) != size:
            before = "{}x{}".format(*self.sizes[camera])
            raise UserError(f"the image is {size[0]}x{size[1]}, the ones before it {before}")
        looked_at |= not self._trust
        if still.file is not None and still.form == storage and size == (still.height, still.width):
            seen = still.decoded() if looked_at else still.pixels
            return StoredImage(still.file, None, None if seen is None else stats.tally(seen, sample), repeated)
        image = resize(still.decoded(), size)
        counted = stats.tally(image, sample) if looked_at else None
        if storage == "video":
            return StoredImage(b"", image, counted, repeated)
        if storage == "jpeg":
            self.compressed.add(camera)
        return StoredImage(
            decode.encode(image, storage, self._config.conventions.jpeg_quality), None, counted, repeated
        )


def _same(one: decode.Still, two: decode.Still) -> bool:
    if one.file is not None and two.file is not None:
        return one.file == two.file
    if one.pixels is None or two.pixels is None or one.pixels.shape != two.pixels.shape:
        return False
    # A few rows tell most images apart.
    return np.array_equal(one.pixels[::64], two.pixels[::64]) and np.array_equal(one.pixels, two.pixels)

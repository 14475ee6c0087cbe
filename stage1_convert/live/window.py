"""The newest samples of one stream, and which of them a tick shows: the rules of align.resample, tick by tick."""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from common.lerobot.images import Image
from stage1_convert.align.resample import hold, in_order_after
from stage1_convert.streams.arrays import Float64
from stage1_convert.streams.clock import SECOND_NS


@dataclass
class Sample:
    """A usable message: its number on its topic (-1: an initial value), its stamp, and its numbers or its image.

    `image` is None until it is decoded, and otherwise what is wrong with it if it does not decode. `fault` is what is wrong
    with the numbers where data.bad_messages is refuse.
    """

    number: int
    stamp_ns: int
    values: Float64 = field(default_factory=lambda: np.zeros(0))
    fault: str | None = None
    data: bytes = b""
    image: Image | UserError | None = None


class Choice(NamedTuple):
    """The sample, by its place in the window, that a tick shows, and whether it is within the limit of age."""

    place: int
    within: bool


class Window:
    """The samples that a tick may still show, in the order of their stamps: at most the newest `most`.

    Ticks must ascend: what is older than the sample of the last one is forgotten.
    """

    def __init__(self, rule: str, limit_ns: int, fps: int, most: int) -> None:
        self.limit_ns = limit_ns
        self._in_order, self._period_ns = rule == "in_order", SECOND_NS // fps
        self.samples: deque[Sample] = deque(maxlen=most)
        self._has_shown = False

    def add(self, sample: Sample) -> bool:
        """Take the next sample; return False, and leave it out, when its stamp is zero or goes back."""
        in_order = sample.stamp_ns > 0 and not (self.samples and sample.stamp_ns < self.samples[-1].stamp_ns)
        if in_order:
            self.samples.append(sample)
        return in_order

    def choose(self, tick_ns: int) -> Choice | None:
        """Return what a tick shows, None when no sample is as early; nothing is forgotten yet."""
        if not self.samples or self.samples[0].stamp_ns > tick_ns:
            return None
        stamps_ns = np.array([sample.stamp_ns for sample in self.samples])
        ticks_ns = np.array([tick_ns])
        if self._in_order:
            shown = 0 if self._has_shown else None
            picks = in_order_after(shown, stamps_ns, ticks_ns, self.limit_ns, self._period_ns)
        else:
            picks = hold(stamps_ns, ticks_ns, self.limit_ns)
        place = int(picks.samples[0])
        return Choice(place, bool(picks.within[0]) or self.samples[place].number < 0)

    def show(self, place: int) -> Sample:
        """Return the sample that a tick shows, and forget those before it."""
        for _ in range(place):
            self.samples.popleft()
        self._has_shown = True
        return self.samples[0]

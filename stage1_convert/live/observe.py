"""A robot's messages become observations, by the rules of its dataset: at a tick the same samples, or a refusal.

A dataset's frame shows the newest samples that are not after its tick and not too old. A robot can do the same, if it waits
until what was sent before the tick has arrived: feed `LiveStreams` each message as it is received, and ask for a tick when
its delay has passed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.cli.command import UserError
from common.lerobot.images import Image
from stage1_convert.align.camera_rate import mid_window_delay_ns
from stage1_convert.align.state_action import state_vectors
from stage1_convert.bags.storage import Bytes
from stage1_convert.config import Config
from stage1_convert.live.rules import LiveRules
from stage1_convert.live.streams import MOST_IMAGES, Camera, Numbers
from stage1_convert.live.window import Choice, Window
from stage1_convert.streams.arrays import Float64
from stage1_convert.streams.topics import TypedTopics, find_topics


class Observation(NamedTuple):
    """What the policy sees at a tick: the state (dimensions,) float32, and RGB images by camera.

    `messages` holds by stream the number of the message on its topic, -1 for an initial value, as in meta/sync.
    """

    tick_ns: int
    state: npt.NDArray[np.float32]
    images: dict[str, Image]
    messages: dict[str, int]


class Refusal(NamedTuple):
    """Why there is no observation at a tick, by stream."""

    tick_ns: int
    reasons: dict[str, str]


class LiveStreams:
    """The streams that a policy sees, fed with messages in the order in which they are received."""

    def __init__(self, rules: LiveRules, source: TypedTopics) -> None:
        """Find each stream's topic among those of a robot or a bag; raises UserError when one is missing."""
        self.rules = rules
        known = {name: topic for name, topic in source.topics.items() if name in rules.topics}
        topics = find_topics(known, _without_commands(rules.config))
        cameras = rules.config.data.cameras
        self._cameras = [Camera(name, topics[name], source, rules) for name in cameras]
        self._numbers = [Numbers(name, topic, source, rules) for name, topic in topics.items() if name not in cameras]

    @property
    def topics(self) -> set[str]:
        """Return the topics to subscribe to."""
        return {stream.topic for stream in (*self._numbers, *self._cameras)}

    @property
    def left_out(self) -> dict[str, tuple[int, str]]:
        """Return by stream how many messages were left out, and what was wrong with the last one."""
        return {name: told for stream in (*self._numbers, *self._cameras) for name, told in stream.left_out.items()}

    def add(self, topic: str, receive_ns: int, data: Bytes) -> None:
        """Take a serialized message (CDR) of one of the topics."""
        for stream in (*self._numbers, *self._cameras):
            if stream.topic == topic:
                stream.add(receive_ns, data)

    def first_tick_ns(self, after_ns: int) -> int | None:
        """Return the first tick of a grid as the dataset's begin; None until all streams, and a second of images, have come.

        At the ticks, images of the first camera that shows each one in order are half a period old on average.
        """
        fps = self.rules.config.data.fps
        if not all(window.samples for _, window in self._windows()):
            return None
        for camera in self._cameras:
            if self.rules.of_stream(camera.name)[0] == "in_order":
                stamps_ns = np.array([sample.stamp_ns for sample in camera.window.samples])
                if len(stamps_ns) < min(fps, MOST_IMAGES):
                    return None
                return after_ns + mid_window_delay_ns(stamps_ns, after_ns, fps)
        return after_ns

    def newest(self) -> dict[str, float]:
        """Return the newest value of every number of the state, as published, by its name."""
        return {name: value for stream in self._numbers for name, value in stream.newest().items()}

    def observe(self, tick_ns: int) -> Observation | Refusal:
        """Answer a tick, which must be later than the one before, from what has been received so far."""
        reasons: dict[str, str] = {}
        for stream, window in self._windows():
            fault = _fault(window, window.choose(tick_ns), tick_ns)
            if fault:
                reasons.setdefault(stream, self._describe(stream, fault))
        images: dict[str, Image] = {}
        for camera in self._cameras if not reasons else ():
            image = _image(camera, tick_ns)
            if isinstance(image, str):
                reasons[camera.name] = self._describe(camera.name, image)
            else:
                images[camera.name] = image
        shown = self._show(tick_ns)
        return Refusal(tick_ns, reasons) if reasons else Observation(tick_ns, self._state(), images, shown)

    def _show(self, tick_ns: int) -> dict[str, int]:
        """Advance every window to the sample of a tick; return the numbers of the messages."""
        shown = {}
        for stream, window in self._windows():
            choice = window.choose(tick_ns)
            if choice:
                shown[stream] = window.show(choice.place).number
        return shown

    def _windows(self) -> Iterator[tuple[str, Window]]:
        for numbers in self._numbers:
            for stream, parts in numbers.groups().items():
                for part in parts:
                    yield stream, numbers.windows[part]
        for camera in self._cameras:
            yield camera.name, camera.window

    def _state(self) -> npt.NDArray[np.float32]:
        numbers: dict[str, Float64] = {}
        for stream in self._numbers:
            for part, window in stream.windows.items():
                for name in stream.numbers_of(part):
                    numbers[name] = window.samples[0].values[stream.dimensions.index(name)][None]
        state: npt.NDArray[np.float32] = state_vectors(numbers, self.rules.config)[0].astype(np.float32)
        return state

    def _describe(self, stream: str, fault: str) -> str:
        count, last = self.left_out.get(stream, (0, ""))
        return f"{fault}; {count} messages were left out, the last one because: {last}" if count else fault


def _fault(window: Window, choice: Choice | None, tick_ns: int) -> str | None:
    """Return why a stream has nothing to show at a tick; None when it has."""
    if choice is None:
        after_ms = (window.samples[0].stamp_ns - tick_ns) / 1e6 if window.samples else None
        return f"its messages begin {after_ms:.0f} ms after the tick" if after_ms else "no message has come"
    sample = window.samples[choice.place]
    if not choice.within:
        age_ms, limit_ms = (tick_ns - sample.stamp_ns) / 1e6, window.limit_ns / 1e6
        return f"its newest message is {age_ms:.0f} ms old, more than {limit_ms:g} ms"
    return sample.fault


def _image(camera: Camera, tick_ns: int) -> Image | str:
    """Return the image of a tick, without those that are damaged, or why there is none."""
    while True:
        choice = camera.window.choose(tick_ns)
        fault = _fault(camera.window, choice, tick_ns)
        if choice is None or fault:
            return fault or ""
        image = camera.image(choice.place)
        if image is None:
            return "its image has not been decoded: the video holds images back, so that the delay must be longer"
        if not isinstance(image, UserError):
            return image
        if camera.rules.config.data.bad_messages == "refuse":
            return str(image)
        camera.leave_out(choice.place, str(image))


def _without_commands(config: Config) -> Config:
    """Return the settings without the streams of actions, which are no part of an observation."""
    data = config.data.model_copy(update={"command_topic": None, "action_paths": {}})
    return config.model_copy(update={"data": data})

"""Every frame shows the image and the joints that it must, in every kind of recording.

Each image carries its number, so that it is recognized after any encoding; the expected frames come from the messages as
they were made, by plain loops.
"""

import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

from common.lerobot.dataset import Dataset
from tests.stage1_convert import reference
from tests.stage1_convert.conversion import rows, run
from tests.stage1_convert.recording import (
    COMPRESSED,
    JOINTS,
    MS,
    RAW_TOPIC,
    Image,
    RecordedMessage,
    Recording,
    cell,
    compressed_image,
    draw,
    joint_state,
    jpeg,
    number_in,
    raw_image,
    stamp_of,
    with_image_messages,
)
from tests.stage1_convert.reference import Sample

SIZE = (16, 64)  # eight blocks of eight pixels: numbers below 256
NEAREST = ("data.resample=nearest",)
OLD_GRID = ("data.resample=hold", "data.grid_delay_ms=0")


class Variant(NamedTuple):
    """A recording, further settings, and the cameras by topic."""

    recording: Recording
    overrides: tuple[str, ...] = ()
    cameras: dict[str, str] = {"color": RAW_TOPIC}  # noqa: RUF012 (of a tuple that nobody changes)


def recorded(seconds: float = 2.0, **settings: Any) -> Recording:
    return cell(seconds=seconds, size=SIZE, seed=5, **settings)


def of_joints(change: Callable[[int, dict[str, float]], dict[str, float]]) -> Variant:
    """Return a recording whose joint messages have other names, positions or order."""
    recording = recorded()
    for n, said in enumerate(recording.joints):
        angles = change(n, dict(zip(said.message.name, map(float, said.message.position), strict=True)))
        recording.joints[n] = said._replace(message=joint_state(stamp_of(said), list(angles), list(angles.values())))
    return Variant(recording)


def of_images(make: Callable[[int, int], Any], *overrides: str) -> Variant:
    """Return a recording whose images are made from their numbers and stamps."""
    return Variant(with_image_messages(recorded(topic=RAW_TOPIC), make), overrides)


def order_switched(n: int, angles: dict[str, float]) -> dict[str, float]:
    return dict(sorted(angles.items())) if n > 70 else angles


def with_gripper(n: int, angles: dict[str, float]) -> dict[str, float]:
    return {"finger_joint": n / 100, **angles}


def crossing_pi(n: int, angles: dict[str, float]) -> dict[str, float]:
    return {**angles, JOINTS[0]: math.remainder(2.5 + n * 0.03, math.tau)}


def padded_rows(number: int, stamp_ns: int) -> Any:
    return raw_image(stamp_ns, draw(number, *SIZE)[..., ::-1].copy(), "bgr8", 24)


def depth(number: int, stamp_ns: int) -> Any:
    meters = np.where(draw(number, *SIZE)[..., 0] > 127, 2.0, 0.4)
    message = raw_image(stamp_ns, np.round(meters * 1000).astype("<u2").view(np.uint8), "16UC1")
    message.width = SIZE[1]
    return message


def jittered(sigma_ms: float) -> Variant:
    rng = np.random.default_rng(8)
    recording = recorded()
    for n, said in enumerate(recording.images):
        stamp_ns = stamp_of(recording.images[0]) + n * 10**9 // 30 + round(rng.normal(0, sigma_ms) * MS)
        message = compressed_image(stamp_ns, jpeg(draw(n, *SIZE)))
        recording.images[n] = RecordedMessage(max(stamp_ns + 40 * MS, said.receive_ns), said.topic, COMPRESSED, message)
    recording.images.sort(key=lambda said: said.receive_ns)
    return Variant(recording)


def burst_loss(*overrides: str) -> Variant:
    recording, rng = recorded(3.0), np.random.default_rng(2)
    lost = {*range(40, 46), *np.flatnonzero(rng.random(90) < 0.2).tolist()}
    recording.images = [said for n, said in enumerate(recording.images) if n not in lost]
    return Variant(recording, overrides)


def joint_gap(*overrides: str) -> Variant:
    recording = recorded(3.0)
    del recording.joints[120:170]
    return Variant(recording, overrides)


def two_cameras() -> Variant:
    recording = recorded()
    wrist = cell(seconds=2.0, size=(32, 64), seed=6, camera_hz=15, topic=RAW_TOPIC)
    recording.others = [said._replace(topic="/wrist/image") for said in wrist.images]
    return Variant(recording, cameras={"color": RAW_TOPIC, "wrist": "/wrist/image"})


VARIANTS: dict[str, Callable[[], Variant]] = {
    "plain": lambda: Variant(recorded()),
    "order switched midway": lambda: of_joints(order_switched),
    "gripper among the joints": lambda: of_joints(with_gripper),
    "crossing pi": lambda: of_joints(crossing_pi),
    "burst loss": burst_loss,
    "joint gap": joint_gap,
    "padded rows": lambda: of_images(padded_rows),
    "two cameras": two_cameras,
    "one topic by two names": lambda: Variant(
        recorded(), cameras={"color": RAW_TOPIC, "same": f"{RAW_TOPIC}/compressed"}
    ),
    "depth": lambda: of_images(depth, "data.depth_range_m=[0.4, 2.0]"),
    "jitter of 1.5 ms": lambda: jittered(1.5),
    "jitter of 8 ms": lambda: jittered(8.0),
    "camera at 60 Hz": lambda: Variant(recorded(camera_hz=60)),
    "old grid": lambda: burst_loss(*OLD_GRID),
    "nearest": lambda: burst_loss(*NEAREST),
    "15 fps": lambda: Variant(recorded(), ("data.fps=15", "data.min_episode_s=1")),
    "png": lambda: Variant(recorded(), ("data.storage=png",)),
    "video": lambda: joint_gap("data.storage=video"),
}


def truth(variant: Variant) -> list[list[dict[str, Any]]]:
    """Return the frames that the recording must give: joint angles and each camera's image numbers."""
    recording = variant.recording
    by_name = [(stamp_of(s), dict(zip(s.message.name, s.message.position, strict=True))) for s in recording.joints]
    streams = {"joints": [Sample(stamp, [angles[joint] for joint in JOINTS]) for stamp, angles in by_name]}
    for camera, topic in variant.cameras.items():
        said = [s for s in (*recording.images, *recording.others) if s.topic in (topic, f"{topic}/compressed")]
        streams[camera] = sorted(Sample(stamp_of(s), number_in(pixels_of(s.message))) for s in said)
    if variant.overrides == NEAREST:
        return reference.pair(streams, in_order=(), rule="nearest", max_age_ms=50)
    if variant.overrides == OLD_GRID:
        return reference.pair(streams, in_order=())
    steady = {camera: samples for camera, samples in streams.items() if camera != "joints"}
    fps = 15 if "data.fps=15" in variant.overrides else 30
    at_fps = [camera for camera, samples in steady.items() if 0.9 < median_rate(samples) / fps < 1.1]
    return reference.pair(streams, fps, at_fps)


def median_rate(samples: list[Sample]) -> float:
    return 10**9 / statistics.median(b.stamp_ns - a.stamp_ns for a, b in itertools.pairwise(samples))


def pixels_of(message: Any) -> Image:
    """Return the pixels of an image message as far as its number needs them."""
    if not hasattr(message, "encoding"):
        return np.asarray(cv2.imdecode(message.data, cv2.IMREAD_COLOR), np.uint8)
    table = message.data.reshape(message.height, message.step)
    if message.encoding == "16UC1":
        return np.repeat((table[:, 1 : 2 * message.width : 2, None] > 4) * np.uint8(255), 3, axis=2)
    return np.repeat(table[:, : 3 * message.width : 3, None], 3, axis=2)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_frame_shows_what_was_recorded(tmp_path: Path, name: str) -> None:
    variant = VARIANTS[name]()
    variant.recording.write(tmp_path / "src" / "bag", "sqlite3" if len(name) % 2 else "mcap")
    cameras = ", ".join(f"{camera}: {topic}" for camera, topic in variant.cameras.items())
    run(tmp_path / "src", tmp_path / "out", f"data.cameras={{{cameras}}}", *variant.overrides)
    expected = truth(variant)
    dataset = Dataset.open(tmp_path / "out")
    assert [episode.length for episode in dataset.episodes] == [len(episode) for episode in expected]
    table = rows(tmp_path / "out")
    for episode, frames in zip(dataset.episodes, expected, strict=True):
        for camera in variant.cameras:
            shown = [number_in(image) for image in dataset.images(episode, camera)]
            assert shown == [frame[camera] for frame in frames], camera
        part = table[episode.start : episode.stop]
        states = np.array([frame["joints"] for frame in frames])
        np.testing.assert_array_equal(np.stack(part["observation.state"]), states.astype(np.float32))
        steps = [[math.remainder(b - a, math.tau) for a, b in zip(*p, strict=True)] for p in itertools.pairwise(states)]
        np.testing.assert_allclose(np.stack(part["action"])[:-1], steps, rtol=0, atol=1e-6)
        assert not np.stack(part["action"])[-1].any()
        assert list(part["timestamp"]) == [np.float32(k / dataset.fps) for k in range(len(frames))]
    assert dataset.n_frames > 0


def test_the_variants_are_what_they_are_called() -> None:
    assert [len(truth(VARIANTS[name]())) for name in ("plain", "joint gap", "burst loss")] == [1, 2, 3]
    (frames,) = truth(VARIANTS["jitter of 8 ms"]())
    shown = [frame["color"] for frame in frames]
    assert len(set(shown)) < len(shown), "with this much jitter some images are repeated"
    angles = [frame["joints"][0] for frame in truth(VARIANTS["crossing pi"]())[0]]
    assert max(np.abs(np.diff(angles))) > 6

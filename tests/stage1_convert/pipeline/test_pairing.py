"""Every frame shows the image and the joints that it must, in every kind of recording: the truth is what was said.

Each image carries its number, so that a frame's image is known after any encoding; the expected frames come from
the messages as they were made, by plain loops.
"""

import itertools
import math
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
    Recording,
    Said,
    cell,
    compressed_image,
    draw,
    joint_state,
    jpeg,
    number_in,
    raw_image,
)
from tests.stage1_convert.reference import Sample

SIZE = (16, 64)  # eight blocks of eight pixels: numbers below 256


class Variant(NamedTuple):
    """A recording, the cameras by topic, and further settings."""

    recording: Recording
    cameras: dict[str, str]
    overrides: tuple[str, ...] = ()


def stamp_of(said: Said) -> int:
    stamp = said.message.header.stamp
    return int(stamp.sec * 10**9 + stamp.nanosec)


def spoken(seconds: float = 2.0, **settings: Any) -> Recording:
    return cell(seconds=seconds, size=SIZE, seed=5, **settings)


def renamed(recording: Recording, change: Callable[[int, dict[str, float]], dict[str, float]]) -> Recording:
    """Say every joint message again with other names, positions or order."""
    for at, said in enumerate(recording.joints):
        angles = change(at, dict(zip(said.message.name, map(float, said.message.position), strict=True)))
        recording.joints[at] = said._replace(message=joint_state(stamp_of(said), list(angles), list(angles.values())))
    return recording


def jittered(sigma_ms: float) -> Variant:
    rng = np.random.default_rng(8)
    recording = spoken()
    for at, said in enumerate(recording.images):
        stamp_ns = stamp_of(recording.images[0]) + at * 10**9 // 30 + round(rng.normal(0, sigma_ms) * MS)
        message = compressed_image(stamp_ns, jpeg(draw(at, *SIZE)))
        recording.images[at] = Said(max(stamp_ns + 40 * MS, said.receive_ns), said.topic, COMPRESSED, message)
    recording.images.sort(key=lambda said: said.receive_ns)
    return Variant(recording, {"color": RAW_TOPIC})


def order_switched() -> Variant:
    def switch(at: int, angles: dict[str, float]) -> dict[str, float]:
        return dict(sorted(angles.items())) if at > 70 else angles

    return Variant(renamed(spoken(), switch), {"color": RAW_TOPIC})


def with_gripper() -> Variant:
    return Variant(renamed(spoken(), lambda at, angles: {"finger_joint": at / 100, **angles}), {"color": RAW_TOPIC})


def crossing_pi() -> Variant:
    def turn(at: int, angles: dict[str, float]) -> dict[str, float]:
        return {**angles, JOINTS[0]: math.remainder(2.5 + at * 0.03, math.tau)}

    return Variant(renamed(spoken(), turn), {"color": RAW_TOPIC})


def burst_loss() -> Variant:
    recording, rng = spoken(3.0), np.random.default_rng(2)
    lost = {*range(40, 46), *np.flatnonzero(rng.random(90) < 0.2).tolist()}
    recording.images = [said for at, said in enumerate(recording.images) if at not in lost]
    return Variant(recording, {"color": RAW_TOPIC})


def joint_gap() -> Variant:
    recording = spoken(3.0)
    del recording.joints[120:170]
    return Variant(recording, {"color": RAW_TOPIC})


def padded_rows() -> Variant:
    recording = spoken(topic=RAW_TOPIC)
    for at, said in enumerate(recording.images):
        bgr = draw(at, *SIZE)[..., ::-1].copy()
        recording.images[at] = said._replace(message=raw_image(stamp_of(said), bgr, "bgr8", 24))
    return Variant(recording, {"color": RAW_TOPIC})


def two_cameras() -> Variant:
    recording = spoken()
    wrist = cell(seconds=2.0, size=SIZE, seed=6, camera_hz=15, topic=RAW_TOPIC)
    recording.others = [said._replace(topic="/wrist/image") for said in wrist.images]
    return Variant(recording, {"color": RAW_TOPIC, "wrist": "/wrist/image"})


def depth() -> Variant:
    recording = spoken(topic=RAW_TOPIC)
    for at, said in enumerate(recording.images):
        meters = np.where(draw(at, *SIZE)[..., 0] > 127, 2.0, 0.4)
        message = raw_image(stamp_of(said), np.round(meters * 1000).astype("<u2").view(np.uint8), "16UC1")
        message.width = SIZE[1]
        recording.images[at] = said._replace(message=message)
    return Variant(recording, {"color": RAW_TOPIC}, ("data.depth_range_m=[0.4, 2.0]",))


VARIANTS: dict[str, Callable[[], Variant]] = {
    "plain": lambda: Variant(spoken(), {"color": RAW_TOPIC}),
    "order switched midway": order_switched,
    "gripper among the joints": with_gripper,
    "crossing pi": crossing_pi,
    "burst loss": burst_loss,
    "joint gap": joint_gap,
    "padded rows": padded_rows,
    "two cameras": two_cameras,
    "depth": depth,
    "jitter of 1.5 ms": lambda: jittered(1.5),
    "jitter of 8 ms": lambda: jittered(8.0),
    "camera at 60 Hz": lambda: Variant(spoken(camera_hz=60), {"color": RAW_TOPIC}),
    "nearest": lambda: Variant(burst_loss().recording, {"color": RAW_TOPIC}, ("data.resample=nearest",)),
    "15 fps": lambda: Variant(spoken(), {"color": RAW_TOPIC}, ("data.fps=15", "data.min_episode_s=1")),
    "png": lambda: Variant(spoken(), {"color": RAW_TOPIC}, ("data.storage=png",)),
    "video": lambda: Variant(joint_gap().recording, {"color": RAW_TOPIC}, ("data.storage=video",)),
}


def truth(variant: Variant) -> list[list[dict[str, Any]]]:
    """Return the frames that the recording must give: joint angles and each camera's image numbers."""
    recording = variant.recording
    by_name = [(stamp_of(s), dict(zip(s.message.name, s.message.position, strict=True))) for s in recording.joints]
    streams = {"joints": [Sample(stamp, [angles[joint] for joint in JOINTS]) for stamp, angles in by_name]}
    for camera, topic in variant.cameras.items():
        said = [s for s in (*recording.images, *recording.others) if s.topic in (topic, f"{topic}/compressed")]
        seen = reference_numbers(said)
        streams[camera] = sorted(Sample(stamp_of(s), number) for s, number in zip(said, seen, strict=True))
    if "data.resample=nearest" in variant.overrides:
        return reference.pair(streams, max_age_ms=50, rule="nearest")
    return reference.pair(streams, fps=15 if "data.fps=15" in variant.overrides else 30)


def reference_numbers(said: list[Said]) -> list[int]:
    """Return the number that each image message carries, from its pixels."""
    numbers = []
    for message in (s.message for s in said):
        if not hasattr(message, "encoding"):
            numbers.append(number_in(np.asarray(cv2.imdecode(message.data, cv2.IMREAD_COLOR))))
        else:
            rows = message.data.reshape(message.height, message.step)
            gray = (
                rows[:, 1 : 2 * message.width : 2] if message.encoding == "16UC1" else rows[:, : 3 * message.width : 3]
            )
            bright = (gray > 4) * 255 if message.encoding == "16UC1" else gray
            numbers.append(number_in(np.repeat(bright[..., None], 3, axis=2).astype(np.uint8)))
    return numbers


@pytest.mark.parametrize("name", VARIANTS)
def test_every_frame_shows_what_was_said(tmp_path: Path, name: str) -> None:
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
    assert len(set(shown)) < len(shown), "with this much jitter some images are held"
    angles = [frame["joints"][0] for frame in truth(crossing_pi())[0]]
    assert max(np.abs(np.diff(angles))) > 6

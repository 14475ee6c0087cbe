"""The film of the rollouts: the trained and the untrained policy beside each other, and their distances over time below."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from common.storage.files import atomic_path, write_file
from demo.arm import Array
from demo.expert import picture
from demo.scene import Color, Image
from stage1_convert.dataset.video_file import VideoFile

if TYPE_CHECKING:
    from demo.rollout import Rollouts

PANEL_PX = (240, 360)  # height, width: larger than the images of the policy, for people
TITLE_PX, CHART_PX, MARGIN_PX = 32, 150, 44
TRAINED, UNTRAINED, INK, GOAL = (30, 100, 200), (120, 120, 120), (40, 40, 40), (40, 150, 70)
HOLD_S = 0.7  # the last image of a rollout stays so long
PREVIEW_FPS, PREVIEW_WIDTH = 10, 480


def write_film(folder: Path, trained: "Rollouts", untrained: "Rollouts", success_m: float) -> None:
    """Write rollout.mp4 (H.264), and rollout.webp, the same smaller and slower, which a README can show."""
    frames = list(draw_film(trained, untrained, success_m))
    with atomic_path(folder / "rollout.mp4") as path:
        video = VideoFile(path, (frames[0].shape[0], frames[0].shape[1]), trained.fps)
        for frame in frames:
            video.add(frame)
        video.close()
    write_file(folder / "rollout.webp", _animation(frames[:: round(trained.fps / PREVIEW_FPS)]))


def draw_film(trained: "Rollouts", untrained: "Rollouts", success_m: float) -> Iterator[Image]:
    """Yield RGB images (height, width, 3), all of one size, `trained.fps` of them a second: one rollout after the other."""
    for index in range(min(len(trained.tasks), len(untrained.tasks))):
        distances_cm = [rollouts.distances_m[index] * 100 for rollouts in (trained, untrained)]
        steps = len(distances_cm[0])
        for step in [*range(steps), *[steps - 1] * round(HOLD_S * trained.fps)]:
            panels = [
                _panel(title, color, rollouts, index, step)
                for title, color, rollouts in (("trained", TRAINED, trained), ("untrained", UNTRAINED, untrained))
            ]
            chart = _chart(distances_cm, step, trained.fps, success_m * 100, sum(panel.shape[1] for panel in panels))
            yield np.vstack([np.hstack(panels), chart])


def _panel(title: str, color: Color, rollouts: "Rollouts", index: int, step: int) -> Image:
    image = picture(rollouts.tasks[index], rollouts.joints[index, step], *PANEL_PX)
    bar = np.full((TITLE_PX, PANEL_PX[1], 3), 255, np.uint8)
    _text(bar, f"{title}: {rollouts.distances_m[index, step] * 100:.1f} cm from the target", (10, 21), color)
    return np.pad(np.vstack([bar, image]), ((0, 0), (2, 2), (0, 0)), constant_values=255)


def _chart(distances_cm: Sequence[Array], step: int, fps: int, success_cm: float, width: int) -> Image:
    """Draw the distances up to `step`; the axes are those of the whole rollout."""
    chart = np.full((CHART_PX, width, 3), 255, np.uint8)
    top_cm, last = max(float(distance.max()) for distance in distances_cm), len(distances_cm[0]) - 1
    left, right, upper, lower = MARGIN_PX, width - 16, 14, CHART_PX - 26

    def place(at: float, distance_cm: float) -> tuple[int, int]:
        return round(left + (right - left) * at / last), round(lower - (lower - upper) * distance_cm / top_cm)

    cv2.line(chart, place(0, success_cm), place(last, success_cm), GOAL, 1, cv2.LINE_AA)
    cv2.rectangle(chart, (left, upper), (right, lower), UNTRAINED, 1)
    for distance_cm, color in zip(distances_cm[::-1], (UNTRAINED, TRAINED), strict=True):
        points = np.array([place(i, value) for i, value in enumerate(distance_cm[: step + 1])])
        cv2.polylines(chart, [points], False, color, 2, cv2.LINE_AA)
    for seconds in range(int(last / fps) + 1):
        _text(chart, f"{seconds} s", (place(seconds * fps, 0)[0] - 8, CHART_PX - 8), INK)
    _text(chart, f"{top_cm:.0f}", (10, upper + 8), INK)
    _text(chart, f"{success_cm:.0f} cm", (2, place(0, success_cm)[1] + 4), GOAL)
    return chart


def _text(image: Image, text: str, position: tuple[int, int], color: Color) -> None:
    cv2.putText(image, text, position, cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)


def _animation(frames: Sequence[Image]) -> bytes:
    """Return an animated WebP file of PREVIEW_FPS images a second."""
    size = (PREVIEW_WIDTH, round(frames[0].shape[0] * PREVIEW_WIDTH / frames[0].shape[1]))
    animation = cv2.Animation()
    animation.frames = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA)[..., ::-1] for frame in frames]
    animation.durations = [round(1000 / PREVIEW_FPS)] * len(frames)
    done, encoded = cv2.imencodeanimation(".webp", animation, [cv2.IMWRITE_WEBP_QUALITY, 60])
    assert done, "OpenCV cannot encode WebP"
    return encoded.tobytes()

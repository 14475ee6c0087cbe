"""Decode the mp4 files of one video feature and compare their frames with the episodes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.cli.command import one_line, progress
from common.lerobot.images import Image
from common.lerobot.metadata import VIDEO_PATH, Feature
from stage1_convert.check.findings import Findings
from stage1_convert.check.meta import Episodes

TOLERANCE_S = 1e-4  # LeRobot's, for the time of a video frame

Add = Callable[[str, int, Image], None]


class Clip(NamedTuple):
    """The part of a video file that belongs to an episode, and the file and row of meta/episodes about it."""

    episode: int
    start: int
    length: int
    from_s: float
    to_s: float
    place: tuple[Path, int]


def check_videos(
    root: Path, key: str, feature: Feature, fps: float, episodes: Episodes, add: Add, findings: Findings
) -> None:
    """Decode every video of one feature and compare its frames with the rows and times of the episodes."""
    clips: dict[Path, list[Clip]] = {}
    names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")]
    columns = zip(*(episodes.columns[name] for name in names), episodes.bounds, strict=True)
    for number, (chunk, file, from_s, to_s, (start, stop)) in enumerate(columns):
        path = root / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)
        clips.setdefault(path, []).append(Clip(number, start, stop - start, from_s, to_s, episodes.places[number]))
    folder = root / "videos" / key
    for path in sorted(set(folder.glob("*/*.mp4")) - set(clips)):
        findings.add(path, "belongs to no episode")
    for path in progress(sorted(clips), len(clips), f"check {key}", "video"):
        in_file = sorted(clips[path], key=lambda clip: clip.from_s)
        findings.files.add(path)
        if not path.is_file():
            findings.add(path, f"is missing; episode {in_file[0].episode} needs it")
            continue
        _check_times(key, in_file, fps, findings)
        _check_frames(path, key, feature, in_file, fps, add, findings)


def _check_times(key: str, clips: list[Clip], fps: float, findings: Findings) -> None:
    """The clips of a file must follow each other from 0 on, each as long as the rows of its episode."""
    expected_s = 0.0
    for clip in clips:
        path, row = clip.place
        if abs(clip.from_s - expected_s) > TOLERANCE_S:
            findings.add(path, f"videos/{key}/from_timestamp: found {clip.from_s:.6f}, expected {expected_s:.6f}", row)
        stop_s = clip.from_s + clip.length / fps
        if abs(clip.to_s - stop_s) > TOLERANCE_S:
            findings.add(
                path,
                f"videos/{key}/to_timestamp: found {clip.to_s:.6f}, expected {stop_s:.6f} for {clip.length} frames",
                row,
            )
        expected_s = clip.to_s


def _check_frames(
    path: Path, key: str, feature: Feature, clips: list[Clip], fps: float, add: Add, findings: Findings
) -> None:
    import av

    rows = [row for clip in clips for row in range(clip.start, clip.start + clip.length)]
    count, late = 0, False
    try:
        for seconds, image in _frames(path):
            if image.shape != feature.shape:
                findings.add(path, f"found frames of shape {image.shape}, expected {feature.shape}", count)
                return
            if abs(seconds - count / fps) > TOLERANCE_S and not late:
                findings.add(path, f"found a frame at {seconds:.6f} s, expected it at {count / fps:.6f} s", count)
                late = True
            add(key, rows[count] if count < len(rows) else -1, image)
            count += 1
    except (av.FFmpegError, OSError, IndexError) as error:
        findings.add(path, f"cannot be decoded: {one_line(error)}", count)
        return
    findings.expect(path, "number of frames (the rows of its episodes)", count, len(rows))


def _frames(path: Path) -> Iterator[tuple[float, Image]]:
    """Yield the time in seconds and the RGB image of every frame of a video, in the order in which they are shown."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            yield (np.inf if frame.time is None else frame.time), np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)

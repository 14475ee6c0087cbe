"""An evaluation as a recording for Rerun: what the cameras saw, what was recorded and what the policy predicted."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.lerobot.frames import read_frames
from common.lerobot.metadata import ACTION, Episode, image_key
from common.report.rrd import Recording, encode_jpeg, jpeg_files, new_recording, part
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.scores import EpisodeScores
from stage3_eval.metrics.summary import Summary
from stage3_eval.report.gallery import Evaluated
from stage3_eval.report.saliency import over_image, saliency


def write_recording(
    path: Path, summary: Summary, inputs: Inputs, scores: Mapping[int, EpisodeScores], attention: int
) -> None:
    """Write all evaluated episodes to `path`; each is an entity `episode_000`, and all begin at time 0.

    Below it are `cameras/NAME`; for each joint `recorded`, `predicted`, `error` and the predicted chunks of some moments,
    `chunk_FRAME`, each from its moment on; and `attention/NAME`, the input attribution of the `attention` worst moments.
    """
    evaluated = Evaluated(inputs, summary, scores)
    first = _entity(inputs.episodes[0])
    images = [f"{first}/cameras/{part(camera)}" for camera in evaluated.cameras]
    images += [f"{first}/attention/{part(camera)}" for camera in evaluated.cameras if attention]
    plots = {joint: f"{first}/joints/{part(joint)}" for joint in summary.joint_names}
    with new_recording(path, summary.fps, images, plots) as recording:
        for episode in inputs.episodes:
            _write_joints(recording, evaluated, episode)
            for camera in evaluated.cameras:
                entity = f"{_entity(episode)}/cameras/{part(camera)}"
                recording.images(entity, jpeg_files(inputs.dataset, episode, camera))
            for frame in sorted(scores[episode.number].moment_M[:attention].tolist()):
                _write_attention(recording, evaluated, episode, frame)


def _entity(episode: Episode) -> str:
    return f"episode_{episode.number:03d}"


def _write_joints(recording: Recording, evaluated: Evaluated, episode: Episode) -> None:
    scores, recorded_TA = evaluated.scores[episode.number], evaluated.rows(episode)[ACTION]
    for joint, name in enumerate(evaluated.summary.joint_names):
        entity = f"{_entity(episode)}/joints/{part(name)}"
        recording.numbers(f"{entity}/recorded", recorded_TA[:, joint])
        recording.numbers(f"{entity}/predicted", scores.executed_TA[:, joint])
        recording.numbers(f"{entity}/error", np.abs(scores.executed_TA - recorded_TA)[:, joint])
        for frame, chunk_CA in zip(scores.fan_F.tolist(), scores.fan_FCA, strict=True):
            recording.numbers(f"{entity}/chunk_{frame:05d}", chunk_CA[: episode.length - frame, joint], first=frame)


def _write_attention(recording: Recording, evaluated: Evaluated, episode: Episode, frame: int) -> None:
    inputs, rows = evaluated.inputs, evaluated.rows(episode)
    seen = {camera: next(read_frames(inputs.dataset, episode, camera, [frame])) for camera in evaluated.cameras}
    state = {key: values[frame : frame + 1] for key, values in rows.items() if key.startswith("observation.")}
    observation = state | {image_key(camera): image[None] for camera, image in seen.items()}
    for camera, map_HW in saliency(inputs.policy, observation).items():
        overlay = encode_jpeg(over_image(seen[camera], map_HW))
        recording.images(f"{_entity(episode)}/attention/{part(camera)}", [overlay], first=frame)

"""The episodes that the page draws, and the worst moments with their camera images.

Letters in array names: T frames of the episode, C chunk steps, A action dimensions.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from common.lerobot.frames import read_frames
from common.lerobot.images import Image
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, Episode, image_key
from common.report.charts import Line, Plot, line_chart
from common.report.formatting import angle
from common.report.images import PageImage, film, heat_map, jpeg
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.errors import Floats
from stage3_eval.metrics.motion import chunk_positions
from stage3_eval.metrics.scores import EpisodeScores, Moment
from stage3_eval.metrics.summary import VALID_HORIZON, EpisodeSummary, Summary
from stage3_eval.recording import Columns, positions, read_rows
from stage3_eval.report.player import Player, view_player
from stage3_eval.report.saliency import over_image, saliency

MAX_DRAWN, BEST_DRAWN = 12, 3
MOMENTS, MOMENT_PX = 6, 420


class Evaluated(NamedTuple):
    """What the page is drawn from; `scores` are those of each episode by its number."""

    inputs: Inputs
    summary: Summary
    scores: Mapping[int, EpisodeScores]

    @property
    def cameras(self) -> list[str]:
        """The dataset's cameras that the policy takes."""
        policy = self.inputs.policy
        renamed, wanted = policy.checkpoint.rename_map, {image_key(camera) for camera in policy.cameras}
        keys = {camera: image_key(camera) for camera in self.inputs.dataset.cameras}
        return [camera for camera, key in keys.items() if renamed.get(key, key) in wanted]

    def rows(self, episode: Episode) -> Columns:
        """Read the states, the actions and, where the policy takes it, the environment state of an episode."""
        has_environment = self.inputs.policy.checkpoint.shape.environment_dim
        return read_rows(self.inputs.dataset, episode, [STATE, ACTION, *([ENVIRONMENT] if has_environment else [])])

    def shown(self, values: Floats, joint: str | None = None) -> npt.NDArray[np.float64]:
        """Return values of a joint, or of all of one unit, as they are shown: radians in degrees."""
        return np.degrees(values) if self.unit(joint) else np.asarray(values, np.float64)

    def unit(self, joint: str | None = None) -> str:
        """Return the unit sign after a shown value; empty for other units than radians."""
        units = self.summary.units if joint is None else self.summary.units_of(joint)
        return "°" if units == "rad" else ""


class Figure(NamedTuple):
    """A plot and its caption."""

    caption: str
    plot: Plot


class EpisodeView(NamedTuple):
    """An episode that is drawn."""

    summary: EpisodeSummary
    length_s: float
    films: dict[str, list[PageImage]]  # camera -> images
    heat: PageImage
    largest: str  # error, in words
    actions: list[Figure]
    paths: list[Figure]
    player: Player | None  # of an episode of one frame there is none


class MomentView(NamedTuple):
    """A moment with its images and the joint that erred most."""

    moment: Moment
    joint: str
    joint_error: float
    images: list[PageImage]
    plot: Plot


def choose_drawn(by_episode: Sequence[EpisodeSummary], moments: Sequence[Moment]) -> list[int]:
    """Return the numbers of the episodes to draw: all while they are few, else the worst and, last, a few of the best.

    Those of the moments are always among them.
    """
    if len(by_episode) <= MAX_DRAWN:
        return [episode.episode_index for episode in by_episode]
    ranked = sorted(by_episode, key=lambda episode: -episode.policy[VALID_HORIZON].mae)
    numbers = [episode.episode_index for episode in ranked]
    best = numbers[-BEST_DRAWN:]
    chosen = {moment.episode.number for moment in moments}.difference(best)
    for number in numbers:
        if len(chosen) >= MAX_DRAWN - BEST_DRAWN:
            break
        chosen.add(number)
    return [number for number in numbers if number in chosen] + best


def heat_limits(evaluated: Evaluated, drawn: Sequence[int]) -> Floats:
    """Return the error (A,) at the brightest color of each row of the heat maps: at least 98 % are smaller.

    All rows have the same but those with units of their own.
    """
    heats, overall = [evaluated.scores[number].heat_TA for number in drawn], evaluated.summary.overall
    top_A: Floats = np.max([np.quantile(heat_TA, 0.98, axis=0) for heat_TA in heats], axis=0).astype(np.float32)
    top_A[overall] = max(float(np.quantile(heat_TA.take(overall, axis=1), 0.98)) for heat_TA in heats)
    return top_A


def view_episode(
    evaluated: Evaluated, number: int, top_A: Floats, n_images: int, moments: Sequence[Moment]
) -> EpisodeView:
    """Return the films, the heat map, the curves and the player of an episode, with `n_images` and those of its moments."""
    inputs, summary = evaluated.inputs, evaluated.summary
    episode = next(episode for episode in inputs.episodes if episode.number == number)
    scores = evaluated.scores[number]
    heat_TA = scores.heat_TA.take(summary.overall, axis=1)
    frame, place = np.unravel_index(int(heat_TA.argmax()), heat_TA.shape)
    joint = summary.joint_names[summary.overall[int(place)]]
    largest = f"largest {angle(float(heat_TA.max()), summary.units)} in {joint} at {int(frame) / summary.fps:.1f} s"
    actions, paths = _draw_joints(evaluated, episode)
    return EpisodeView(
        next(found for found in summary.by_episode if found.episode_index == number),
        episode.length / summary.fps,
        {camera: film(inputs.dataset, episode, camera) for camera in evaluated.cameras},
        heat_map(scores.heat_TA.T, top_A, f"Heat map of the error by joint and time: {largest}"),
        largest,
        actions,
        paths,
        _view_player(evaluated, episode, n_images, moments) if episode.length > 1 else None,
    )


def _view_player(evaluated: Evaluated, episode: Episode, n_images: int, moments: Sequence[Moment]) -> Player:
    dataset, executed_TA = evaluated.inputs.dataset, evaluated.scores[episode.number].executed_TA
    joints = evaluated.summary.joint_names
    values = {
        name: [evaluated.shown(column, joint) for joint, column in zip(joints, rows_TA.T, strict=True)]
        for name, rows_TA in (("recorded", evaluated.rows(episode)[ACTION]), ("predicted", executed_TA))
    }
    units = [evaluated.unit(joint) for joint in joints]
    frames = [moment.frame for moment in moments if moment.episode.number == episode.number]
    return view_player(dataset, episode, evaluated.cameras, n_images, frames, values, units)


def find_moments(evaluated: Evaluated, attention: int) -> list[Moment]:
    """Return the worst moments of all episodes, at least `attention` where there are so many."""
    episodes, count = evaluated.inputs.episodes, max(MOMENTS, attention)
    per_episode = max(2, math.ceil(count / len(episodes)))
    found: list[Moment] = []
    for episode in episodes:
        found += evaluated.scores[episode.number].moments[:per_episode]
    return sorted(found, key=lambda moment: -moment.error)[:count]


def view_moment(evaluated: Evaluated, moment: Moment, with_attribution: bool) -> MomentView:
    """Return a moment with its images, with input attribution or without, and the curve of its worst joint."""
    fps, joints, overall = evaluated.summary.fps, evaluated.summary.joint_names, evaluated.summary.overall
    rows = evaluated.rows(moment.episode)
    recorded_CA = rows[ACTION][moment.frame : moment.frame + len(moment.chunk_CA)]
    predicted_CA = moment.chunk_CA[: len(recorded_CA)]
    error_A = np.abs(predicted_CA - recorded_CA).mean(axis=0)
    worst = overall[int(error_A.take(overall).argmax())]
    start = moment.frame
    if len(recorded_CA) < 2:  # one step is no curve: show what was executed around it
        half = max(1, fps // 2)
        around = slice(max(0, moment.frame - half), moment.frame + half + 1)
        executed_TA = evaluated.scores[moment.episode.number].executed_TA
        start, recorded_CA, predicted_CA = around.start, rows[ACTION][around], executed_TA[around]
    seconds = (start + np.arange(len(recorded_CA))) / fps
    lines = _compared(evaluated, joints[worst], seconds, recorded_CA[:, worst], predicted_CA[:, worst])
    label = f"{joints[worst]}: recorded and predicted action"
    return MomentView(
        moment,
        joints[worst],
        float(error_A[worst]),
        _moment_images(evaluated, moment, with_attribution),
        line_chart(label, lines, " s", evaluated.unit(joints[worst])),
    )


def _moment_images(evaluated: Evaluated, moment: Moment, with_attribution: bool) -> list[PageImage]:
    where = f"episode {moment.episode.number}, {moment.frame / evaluated.summary.fps:.2f} s"
    seen = _see(evaluated, moment)
    images = [jpeg(image, f"Camera {camera}, {where}", MOMENT_PX) for camera, image in seen.items()]
    if with_attribution:
        for camera, image in attribute(evaluated, moment).items():
            images.append(jpeg(image, f"Input attribution, camera {camera}, {where}", MOMENT_PX))
    return images


def attribute(evaluated: Evaluated, moment: Moment) -> dict[str, Image]:
    """Return camera -> its image at a moment under the input attribution; empty for a policy without cameras."""
    seen, rows = _see(evaluated, moment), evaluated.rows(moment.episode)
    if not seen:
        return {}
    state = {key: rows[key][[moment.frame]] for key in (STATE, ENVIRONMENT) if key in rows}
    observation = state | {image_key(camera): image[None] for camera, image in seen.items()}
    maps = saliency(evaluated.inputs.policy, observation)
    return {camera: over_image(seen[camera], map_HW) for camera, map_HW in maps.items()}


def _see(evaluated: Evaluated, moment: Moment) -> dict[str, Image]:
    dataset = evaluated.inputs.dataset
    return {camera: next(read_frames(dataset, moment.episode, camera, [moment.frame])) for camera in evaluated.cameras}


def _draw_joints(evaluated: Evaluated, episode: Episode) -> tuple[list[Figure], list[Figure]]:
    """Draw the actions of each joint and, where positions and meaning are known, where its predicted chunks lead."""
    rows, scores, summary = evaluated.rows(episode), evaluated.scores[episode.number], evaluated.summary
    position_TA = positions(evaluated.inputs.dataset, rows[STATE], evaluated.inputs.action_meaning)
    seconds = np.arange(episode.length) / summary.fps
    actions, paths = [], []
    for joint, name in enumerate(summary.joint_names):
        unit = evaluated.unit(name)
        lines = _compared(evaluated, name, seconds, rows[ACTION][:, joint], scores.executed_TA[:, joint])
        label = f"{name}: recorded and predicted action"
        actions.append(Figure(name, line_chart(label, lines, " s", unit)))
        if position_TA is not None and summary.action_meaning:
            lines = [Line("recorded", seconds, evaluated.shown(position_TA[:, joint], name), "recorded")]
            lines += _fans(evaluated, scores, position_TA, joint, summary.action_meaning)
            label = f"{name}: recorded position and where predicted chunks lead"
            paths.append(Figure(name, line_chart(label, lines, " s", unit)))
    return actions, paths


def _fans(
    evaluated: Evaluated, scores: EpisodeScores, position_TA: Floats, joint: int, action_meaning: str
) -> list[Line]:
    fps, name = evaluated.summary.fps, evaluated.summary.joint_names[joint]
    last, lines = len(position_TA) - 1, []  # nothing was recorded beyond the last frame
    for start, chunk_CA in zip(scores.fan_F.tolist(), scores.fan_FCA, strict=True):
        if start < last:
            path = chunk_positions(position_TA[start], chunk_CA, action_meaning)
            path = path[: last - start + 1, joint]
            lines.append(Line("predicted", (start + np.arange(len(path))) / fps, evaluated.shown(path, name), "fan"))
    return lines


def _compared(evaluated: Evaluated, joint: str, seconds: Floats, recorded: Floats, predicted: Floats) -> list[Line]:
    return [
        Line("recorded", seconds, evaluated.shown(recorded, joint), "recorded"),
        Line("predicted", seconds, evaluated.shown(predicted, joint), "policy"),
    ]

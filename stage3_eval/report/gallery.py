"""Scores of episodes in; the episodes that are drawn, frame by frame, and the worst moments with their images out.

Letters in array names: T frames of the episode, C chunk steps, A action dimensions.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from common.act.checkpoint import ENVIRONMENT
from common.lerobot.dataset import ACTION, STATE, Dataset, Episode, image_key
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.errors import Floats
from stage3_eval.metrics.scores import EpisodeScores
from stage3_eval.metrics.summary import VALID_HORIZON
from stage3_eval.recording import Columns, images_at, positions, read_rows
from stage3_eval.report.charts import Image, Line, heat_map, image, line_chart
from stage3_eval.report.curves import chunk_positions
from stage3_eval.report.formatting import amount, escape, legend, times
from stage3_eval.report.saliency import over_image, saliency

MAX_SHOWN, BEST_SHOWN = 12, 3
STRIP, STRIP_PX, MOMENT_PX = 8, 160, 420
MAX_POINTS = 600  # of a curve: more cannot be seen
CURVES = [("recorded", "recorded"), ("policy", "predicted")]


ScoresByNumber = Mapping[int, EpisodeScores]


class Moment(NamedTuple):
    """A frame whose chunk was far off."""

    episode: Episode
    frame: int
    error: float
    chunk_CA: Floats


def choose_shown(by_episode: list[dict[str, Any]]) -> list[int]:
    """Return the episodes to draw: all while they are few, else the worst and, last, a few of the best."""
    ranked = sorted(by_episode, key=lambda of: -float(of["policy"][VALID_HORIZON]["mae"]))
    numbers = [int(of["episode_index"]) for of in ranked]
    if len(numbers) <= MAX_SHOWN:
        return [int(of["episode_index"]) for of in by_episode]
    return numbers[: MAX_SHOWN - BEST_SHOWN] + numbers[-BEST_SHOWN:]


def show_episodes(inputs: Inputs, summary: dict[str, Any], scores: ScoresByNumber, shown: list[int]) -> str:
    """Return one part per shown episode: filmstrip, heat map, curves; the first is open."""
    by_number = {episode.number: episode for episode in inputs.episodes}
    top = max(float(np.quantile(scores[number].heat_TA, 0.98)) for number in shown)
    return "".join(
        _episode(inputs, summary, by_number[number], scores[number], top, number == shown[0]) for number in shown
    )


def show_moments(
    inputs: Inputs, summary: dict[str, Any], scores: ScoresByNumber, shown: list[int], attention: int
) -> str:
    """Return the worst moments of all episodes with what the cameras saw; of `attention` of them also what mattered."""
    count = max(6, attention)
    moments = _worst(inputs, scores, count, per_episode=max(2, math.ceil(count / len(inputs.episodes))))
    words = "<p>The frames whose chunks were furthest from the recording.</p>"
    if attention:
        words += (
            '<p class="soft">Bright in the second image: where a small change would have changed the predicted chunk most '
            "(the gradient of the chunk with respect to the image, smoothed).</p>"
        )
    parts = [_moment(inputs, summary, scores, moment, shown, place < attention) for place, moment in enumerate(moments)]
    return f'{words}{legend(CURVES)}<div class="moments">{"".join(parts)}</div>'


def _worst(inputs: Inputs, scores: ScoresByNumber, count: int, per_episode: int) -> list[Moment]:
    kept: list[Moment] = []
    for episode in inputs.episodes:
        found = scores[episode.number]
        here = zip(found.moment_M.tolist(), found.moment_M_error.tolist(), found.moment_MCA, strict=True)
        kept += [Moment(episode, frame, error, chunk) for frame, error, chunk in list(here)[:per_episode]]
        kept = sorted(kept, key=lambda moment: -moment.error)[:count]
    return kept


def _moment(
    inputs: Inputs,
    summary: dict[str, Any],
    scores: ScoresByNumber,
    moment: Moment,
    shown: list[int],
    attention: bool,
) -> str:
    fps, units, joints, number_ = summary["fps"], summary["units"], summary["joint_names"], moment.episode.number
    rows = read_rows(inputs.dataset, moment.episode, _columns(inputs))
    recorded_CA = rows[ACTION][moment.frame : moment.frame + len(moment.chunk_CA)]
    error_A = np.abs(moment.chunk_CA[: len(recorded_CA)] - recorded_CA).mean(axis=0)
    worst = int(error_A.argmax())
    first, shown_CA, predicted_CA = moment.frame, recorded_CA, moment.chunk_CA[: len(recorded_CA)]
    if len(recorded_CA) < 2:  # one step is no curve: what was executed around it is
        around = slice(max(0, moment.frame - fps // 2), moment.frame + fps // 2)
        executed_TA = scores[moment.episode.number].executed_TA
        first, shown_CA, predicted_CA = around.start, rows[ACTION][around], executed_TA[around]
    seconds = [(first + step) / fps for step in range(len(shown_CA))]
    lines = [
        Line("recorded", seconds, _shown_in(shown_CA[:, worst], units), "recorded"),
        Line("predicted", seconds, _shown_in(predicted_CA[:, worst], units), "policy"),
    ]
    where = f"episode {number_}, {moment.frame / fps:.2f} s"
    name = f'<a href="#episode-{number_}">{where}</a>' if number_ in shown else where
    most = f"most in {escape(joints[worst])} ({amount(float(error_A[worst]), units)})"
    off = f"off by {amount(moment.error, units)} on average, {most}"
    images = _moment_images(inputs, moment, rows, where, attention)
    return (
        f'<div class="moment"><h3>{name}</h3><p class="soft">{off}</p><div class="pair">{images}</div>'
        f"{_chart(f'{joints[worst]}: recorded and predicted action', joints[worst], lines, units)}</div>"
    )


def _moment_images(inputs: Inputs, moment: Moment, rows: Columns, where: str, attention: bool) -> str:
    seen = {
        camera: images_at(inputs.dataset, moment.episode, camera, [moment.frame])[moment.frame]
        for camera in _cameras(inputs)
    }
    parts = [_image(seen[camera], MOMENT_PX, f"Camera {camera}, {where}") for camera in seen]
    if attention and seen:
        state = {key: rows[key][moment.frame : moment.frame + 1] for key in rows if key.startswith("observation.")}
        observation = state | {image_key(camera): seen[camera][None] for camera in seen}
        for camera, map_HW in saliency(inputs.policy, observation).items():
            what = f"What mattered in camera {camera}, {where}"
            parts.append(_image(over_image(seen[camera], map_HW), MOMENT_PX, what))
    return "".join(parts)


def _episode(
    inputs: Inputs, summary: dict[str, Any], episode: Episode, scores: EpisodeScores, top: float, is_open: bool
) -> str:
    of = next(of for of in summary["by_episode"] if of["episode_index"] == episode.number)
    error = amount(of["policy"][VALID_HORIZON]["mae"], summary["units"])
    ratio = times(of["ratio_to_best_baseline"][VALID_HORIZON])
    rows = read_rows(inputs.dataset, episode, _columns(inputs))
    title = f"<b>Episode {episode.number}</b> · {episode.length / summary['fps']:.1f} s"
    title += f" · mean error {error} · {ratio} the best rule's"
    return (
        f'<details id="episode-{episode.number}"{" open" if is_open else ""}><summary>{title}</summary>'
        f"{_strip(inputs, episode, summary['fps'])}{_heat(scores, summary, top)}{_curves(inputs, summary, rows, scores)}"
        "</details>"
    )


def _strip(inputs: Inputs, episode: Episode, fps: int) -> str:
    frames = np.unique(np.linspace(0, episode.length - 1, STRIP).round().astype(int)).tolist()
    strips = ""
    for camera in _cameras(inputs):
        found = images_at(inputs.dataset, episode, camera, frames)
        figures = "".join(
            f"<figure>{_image(found[frame], STRIP_PX, f'Camera {camera} at {frame / fps:.1f} s')}"
            f"<figcaption>{frame / fps:.1f} s</figcaption></figure>"
            for frame in frames
        )
        strips += f'<h3>What {escape(camera)} saw</h3><div class="strip">{figures}</div>'
    return strips


def _heat(scores: EpisodeScores, summary: dict[str, Any], top: float) -> str:
    joints, units, fps = summary["joint_names"], summary["units"], summary["fps"]
    frame, joint = np.unravel_index(int(scores.heat_TA.argmax()), scores.heat_TA.shape)
    largest = f"largest {amount(float(scores.heat_TA.max()), units)} in {joints[joint]} at {frame / fps:.1f} s"
    source = heat_map(scores.heat_TA.T, top)
    rows = "".join(f"<li>{escape(name)}</li>" for name in joints)
    what = "of the chunk predicted at each frame" if summary["protocol"] == "open_loop" else "of each executed action"
    return (
        f'<h3>Error by joint and time</h3><div class="heat"><ol aria-hidden="true">{rows}</ol>'
        f'<img src="{source}" alt="Heat map of the error by joint and time: {escape(largest, quote=True)}"></div>'
        f'<p class="soft">Mean error {what}, from the first frame to the last; black is none, yellow {amount(top, units)} '
        f"or more; {escape(largest)}.</p>"
    )


def _curves(inputs: Inputs, summary: dict[str, Any], rows: Columns, scores: EpisodeScores) -> str:
    units, fps, joints = summary["units"], summary["fps"], summary["joint_names"]
    position_TA = positions(inputs.dataset, rows[STATE])
    n_frames = len(rows[ACTION])
    every = max(1, n_frames // MAX_POINTS)
    seconds = (np.arange(0, n_frames, every) / fps).tolist()
    actions, paths = "", ""
    for joint, name in enumerate(joints):
        lines = [Line("recorded", seconds, _shown_in(rows[ACTION][::every, joint], units), "recorded")]
        lines.append(Line("predicted", seconds, _shown_in(scores.executed_TA[::every, joint], units), "policy"))
        actions += _chart(f"{name}: recorded and predicted action", name, lines, units)
        if position_TA is not None:
            lines = [Line("recorded", seconds, _shown_in(position_TA[::every, joint], units), "recorded")]
            lines += _fans(scores, position_TA, joint, summary)
            paths += _chart(f"{name}: recorded position and where predicted chunks lead", name, lines, units)
    body = f'<h3>Actions</h3>{legend(CURVES)}<div class="charts">{actions}</div>'
    if paths:
        body += (
            f"<details><summary>Positions: where whole chunks would lead</summary>{legend(CURVES)}"
            f'<div class="charts">{paths}</div></details>'
        )
    return body


def _fans(scores: EpisodeScores, position_TA: Floats, joint: int, summary: dict[str, Any]) -> list[Line]:
    fps, units, last = summary["fps"], summary["units"], len(position_TA) - 1
    lines = []
    for start, chunk_CA in zip(scores.fan_F.tolist(), scores.fan_FCA, strict=True):
        if start >= last:
            continue  # nothing was recorded beyond the end
        path = chunk_positions(position_TA[start], chunk_CA, summary["action_meaning"])[: last - start + 1, joint]
        seconds = [(start + step) / fps for step in range(len(path))]
        lines.append(Line("predicted", seconds, _shown_in(path, units), "fan"))
    return lines


def _chart(title: str, caption: str, lines: list[Line], units: str) -> str:
    chart = line_chart(title, lines, "seconds", _unit(units))
    return f"<figure><figcaption>{escape(caption)}</figcaption>{chart}</figure>"


def _image(pixels: Image, width: int, alt: str) -> str:
    height, wide = pixels.shape[:2]
    about = f'width="{wide}" height="{height}" alt="{escape(alt, quote=True)}"'
    return f'<img src="{image(pixels, width)}" {about}>'


def _cameras(inputs: Inputs) -> list[str]:
    """The dataset's cameras that the policy looks at."""
    dataset: Dataset = inputs.dataset
    renamed, wanted = inputs.policy.checkpoint.rename_map, {image_key(camera) for camera in inputs.policy.cameras}
    return [camera for camera in dataset.cameras if renamed.get(image_key(camera), image_key(camera)) in wanted]


def _columns(inputs: Inputs) -> list[str]:
    return [STATE, ACTION, *([ENVIRONMENT] if inputs.policy.checkpoint.shape.environment_dim else [])]


def _shown_in(values: Floats, units: str) -> list[float]:
    shown: list[float] = (np.degrees(values) if units == "rad" else values).astype(float).tolist()
    return shown


def _unit(units: str) -> str:
    return "degrees" if units == "rad" else ""

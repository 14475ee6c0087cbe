"""One episode in; its card out: what is odd about it, where it lies in its bag, images, curves, and ages."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from common.lerobot.dataset import ACTION, STATE, Dataset, data_file
from stage1_convert.dataset.episode_file import read_columns
from stage1_convert.dataset.record import SYNC_PATH
from stage1_convert.report.charts import Bar, Curve, figure, limited, timeline
from stage1_convert.report.record import NS, EpisodeRecord, Issue
from stage1_convert.report.thumbnails import thumbnails

UNRECORDED = "no record of the conversion: sources, gaps and the ages of samples are unknown"
BEGINS = {"start": "its bag's start", "gap": "the end of a gap", "marker": "a marker", "pause": "the end of a pause"}
UNITS = {"velocity": "rad/s", "effort": "Nm"}


def card(told: EpisodeRecord, marks: Sequence[Issue], dataset: Dataset) -> str:
    """Return the card of an episode as an HTML article."""
    fps, number = dataset.fps, told.number
    items = "".join(f'<li class="{mark.level}">{escape(mark.text)}</li>' for mark in marks)
    parts = [
        f'<article class="card" id="episode-{number}" aria-labelledby="title-{number}"><header>',
        f'<h3 id="title-{number}">Episode {number}</h3><span class="soft">{_source(told)}</span></header>',
        f'<p class="facts">{told.frames} frames, {told.frames / fps:.1f} s{escape(_origin(told))}'
        f" · “{escape(told.task)}”</p>",
        f'<ul class="marks" aria-label="What is odd">{items}</ul>' if items else "",
        _in_bag(told, fps) if told.bag else "",
        *(_film(told, dataset, camera) for camera in dataset.cameras),
        _curves(told, dataset),
        _ages(told, dataset) if told.bag else "",
        "</article>",
    ]
    return "".join(parts)


def _source(told: EpisodeRecord) -> str:
    if not told.bag:
        return "of unknown source"
    number, of = told.place()
    return f"{f'episode {number} of ' * (of > 1)}bag {escape(told.bag['bag'])}"


def _origin(told: EpisodeRecord) -> str:
    """Return why an episode begins where it does, and whether it succeeded."""
    if not told.bag:
        return f" · {UNRECORDED}"
    reason, success = str(told.facts.get("begins", "start")), told.bag.get("success")
    outcome = {True: " · succeeded", False: " · failed", None: ""}.get(success, f" · success: {success}")
    return f", from {BEGINS.get(reason, f'a cut ({reason})')}{outcome}"


def _in_bag(told: EpisodeRecord, fps: float) -> str:
    """Draw the whole bag: warm-up, every episode, gaps."""
    clocks = told.bag["clock"].values()
    first_ns, last_ns = min(c["first_ns"] for c in clocks), max(c["last_ns"] for c in clocks)
    span_ns = max(last_ns - first_ns, 1)

    def bar(start_ns: float, frames: int, kind: str) -> Bar:
        start = (start_ns - first_ns) / span_ns
        return Bar(max(start, 0.0), min(start + frames * NS / fps / span_ns, 1.0), kind)

    bars = [Bar(0.0, 1.0, "idle")]
    for episode in told.bag["episodes"]:
        kind = "this" if episode["episode_index"] == told.number else "episode"
        bars.append(bar(episode["start_ns"], episode["frames"], kind))
    bars += [bar(gap["start_ns"], gap["frames"], "gap") for gap in told.bag.get("gaps", [])]
    at_s, stop_s = (told.start_ns - first_ns) / NS, (told.stop_ns(fps) - first_ns) / NS
    n_gaps, n_episodes = len(told.bag.get("gaps", [])), len(told.bag["episodes"])
    label = (
        f"The bag, {span_ns / NS:.1f} s: this episode from {at_s:.1f} to {stop_s:.1f} s, "
        f"{n_episodes} episode{'s' * (n_episodes != 1)} and {n_gaps} gap{'s' * (n_gaps != 1)} in all"
    )
    keys = [("this", "this episode")] + [("episode", "other episodes")] * (n_episodes > 1)
    keys += [("gap", "gap")] * (n_gaps > 0) + [("idle", "not in any frame")]
    legend = "".join(f'<span><span class="b f-{kind}"></span>{words}</span>' for kind, words in keys)
    return (
        f"<h4>In its bag</h4><figure>{timeline(bars, label)}"
        f'<div class="time"><span>0 s</span><span>{span_ns / NS:.1f} s</span></div>'
        f'<p class="legend">{legend}</p></figure>'
    )


def _film(told: EpisodeRecord, dataset: Dataset, camera: str) -> str:
    episode = dataset.episodes[told.number]
    cells = "".join(
        f'<li><img src="{uri}" width="{width}" height="{height}" '
        f'alt="Episode {told.number}, camera {escape(camera)}, at {frame / dataset.fps:.1f} s">'
        f'<span aria-hidden="true">{frame / dataset.fps:.1f} s</span></li>'
        for frame, uri, width, height in thumbnails(dataset, episode, camera)
    )
    return f'<h4>Camera {escape(camera)}</h4><ul class="film">{cells}</ul>'


def _curves(told: EpisodeRecord, dataset: Dataset) -> str:
    """Draw each dimension of the state with the action of the same name below it, then actions that have no state."""
    episode = dataset.episodes[told.number]
    columns = read_columns(dataset.rows_path(episode), (STATE, ACTION))
    states, actions = (columns[key].reshape(episode.length, -1) for key in (STATE, ACTION))
    names = [
        dataset.features[key].names or tuple(f"dimension {at}" for at in range(values.shape[1]))
        for key, values in columns.items()
    ]
    meaning, figures = dataset.action_meaning or "meaning unknown", []
    for at, name in enumerate(names[0]):
        curves = [Curve(states[:, at], "state", _unit(name, told.head))]
        if name in names[1]:
            curves.append(Curve(actions[:, names[1].index(name)], "action", _unit(name, told.head)))
        figures.append(figure(name, curves))
    figures += [
        figure(name, [Curve(actions[:, at], "action", _unit(name, told.head))])
        for at, name in enumerate(names[1])
        if name not in names[0]
    ]
    stop_s = (episode.length - 1) / dataset.fps
    return (
        f'<h4>State and action over {stop_s:.1f} s</h4><p class="legend"><span><span class="key s"></span>state</span>'
        f'<span><span class="key a"></span>action ({meaning.replace("_", " ")})</span></p>'
        f'<div class="grid">{"".join(figures)}</div>'
    )


def _ages(told: EpisodeRecord, dataset: Dataset) -> str:
    """Draw how far every frame's samples lie from it, against the limit."""
    chunk, file = data_file(told.number)
    path = dataset.root / SYNC_PATH.format(chunk_index=chunk, file_index=file)
    table = pq.read_table(path, partitioning=None)
    figures = []
    for stream, rule in told.head["streams"].items():
        if f"{stream}.stamp_ns" in table.column_names:
            age_ms = np.abs(table.column("tick_ns").to_numpy() - table.column(f"{stream}.stamp_ns").to_numpy()) / 1e6
            title = f"{stream} ({rule['resample']})"
            figures.append(limited(title, Curve(age_ms, "state", "ms"), rule["limit_ms"]))
    return f'<h4>Age of the samples shown</h4><div class="grid">{"".join(figures)}</div>'


def _unit(name: str, head: Mapping[str, Any]) -> str:
    joint, _, field = name.partition(".")
    return UNITS.get(field, "rad") if joint in head.get("joint_names", ()) else ""

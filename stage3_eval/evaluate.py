"""A policy and a dataset's episodes in; per-frame parquet files, a summary, curves and a page out.

Every episode is written as it is done, so an evaluation that was killed goes on where it stopped.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from common.act.checkpoint import ENVIRONMENT
from common.cli.command import UserError
from common.lerobot.dataset import ACTION, STATE, Episode
from common.storage.files import atomic_path, require_free, write_json
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.scores import EpisodeScores, Rules, score_episode
from stage3_eval.metrics.summary import Totals
from stage3_eval.metrics.table import episode_table
from stage3_eval.output import (
    ALL_EPISODES,
    CURVES,
    FORMAT,
    FORMAT_VERSION,
    PAGE,
    SUMMARY,
    episode_file,
    finished,
    unfinished,
)
from stage3_eval.predict import QUEUE, predict_open_loop, predict_queue, time_first_call
from stage3_eval.recording import Columns, positions, read_rows, require_finite
from stage3_eval.report.curves import draw_curves
from stage3_eval.report.page import write_page

log = logging.getLogger(__name__)
TIMED_ON_CPU = 50  # frames per episode: enough for percentiles, little against the evaluation itself
PAGE_BYTES, VALUE_BYTES = 400_000, 80  # what page and curves take at least, and what a frame takes for each joint
MOMENTS = 6  # worst moments on the page, unless more are asked for


class Settings(NamedTuple):
    """What the flags decide beyond the inputs."""

    protocol: str = "open_loop"
    batch_size: int = 32
    latency_steps: int | None = None
    max_joint_speed: Sequence[float] | None = None  # radians per second: one for all joints, or one each
    attention: int = 0  # worst moments whose images show what the prediction hung on


def evaluate(inputs: Inputs, out: Path, settings: Settings) -> dict[str, Any]:
    """Evaluate every episode into `out` and return the summary; of an evaluation that is done already, only the latter.

    Two batches of images are in memory, and running totals, however many episodes there are. Raises UserError when a
    image or a number of the dataset is damaged, or `out` holds something else.
    """
    facts = _facts(inputs, settings)
    summary = finished(out, facts["evaluation"])
    if summary is not None:
        return summary
    rules = _rules(inputs, settings)
    require_free(out, PAGE_BYTES + facts["frames"] * len(facts["joint_names"]) * VALUE_BYTES, "the evaluation")
    with unfinished(out, facts["evaluation"]) as folder:
        first_call_s = _first_call(inputs)
        totals = Totals(list(inputs.dataset.joint_names))
        for episode in inputs.episodes:
            if not _is_done(folder, out, episode):
                _evaluate_episode(inputs, settings, rules, facts, episode, folder)
            totals.add(episode, EpisodeScores.load(_scores_file(folder, episode)))
        summary = totals.summary(facts, first_call_s, inputs.policy.device.type)
        paths = [_episode_path(folder, out, episode) for episode in inputs.episodes]
        if len(paths) > 1:
            with atomic_path(folder / ALL_EPISODES) as temporary:
                _join_tables(temporary, paths)
        scores = _Stored(folder, inputs.episodes)
        _draw_first(folder / CURVES, inputs, scores, facts)
        write_page(folder / PAGE, summary, totals.latency_s, inputs, scores, settings.attention)
        write_json(folder / SUMMARY, summary)
    log.info("the page to look at is %s", out / PAGE)
    return summary


class _Stored:
    """The scores of every episode, read from the disk when they are asked for: what the page draws from."""

    def __init__(self, folder: Path, episodes: Sequence[Episode]) -> None:
        self._folder, self._episodes = folder, episodes

    def __iter__(self) -> Iterator[tuple[Episode, EpisodeScores]]:
        return ((episode, self.of(episode)) for episode in self._episodes)

    def of(self, episode: Episode) -> EpisodeScores:
        """Return the scores of one episode."""
        return EpisodeScores.load(_scores_file(self._folder, episode))


def _facts(inputs: Inputs, settings: Settings) -> dict[str, Any]:
    policy, dataset = inputs.policy, inputs.dataset
    record = policy.checkpoint.train_config
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "protocol": settings.protocol,
        "checkpoint": str(inputs.folder.resolve()),
        "checkpoint_sha256": inputs.checkpoint_sha256,
        "dataset": str(dataset.root.resolve()),
        "dataset_fingerprint": dataset.fingerprint,
        "action_meaning": inputs.action_meaning,
        "units": _units(inputs),
        "fps": dataset.fps,
        "chunk_size": policy.chunk_size,
        "n_action_steps": policy.n_action_steps,
        "temporal_ensemble_coeff": policy.temporal_ensemble_coeff,
        "joint_names": list(dataset.joint_names),
        "episodes": [episode.number for episode in inputs.episodes],
        "frames": sum(episode.length for episode in inputs.episodes),
        "held_out": inputs.held_out,
        "training": {key: record[key] for key in ("config", "val_episodes", "git_commit", "versions") if key in record},
        "evaluation": {  # what must be the same for a stopped evaluation to go on, and for a finished one to stay
            "format_version": FORMAT_VERSION,
            "checkpoint_files": inputs.files,
            "dataset_fingerprint": dataset.fingerprint,
            "episodes": [episode.number for episode in inputs.episodes],
            "protocol": settings.protocol,
            "action_meaning": inputs.action_meaning,
            "device": policy.device.type,
            "batch_size": settings.batch_size,
            "latency_steps": settings.latency_steps,
            "max_joint_speed": _speed_limits(inputs, settings.max_joint_speed),
            "attention": settings.attention,
        },
    }


def _units(inputs: Inputs) -> str:
    """Our converter's joints are in radians, and only it says what actions mean; other tools may write degrees."""
    ours = inputs.dataset.action_meaning or inputs.policy.action_meaning
    is_radian = inputs.dataset.features[ACTION].info.get("unit", "radian") == "radian"
    return "rad" if ours and is_radian else "the dataset's units"


def _speed_limits(inputs: Inputs, speed: Sequence[float] | None) -> list[float] | None:
    n_joints = len(inputs.dataset.joint_names)
    if speed is None:
        return None
    if len(speed) not in (1, n_joints):
        raise UserError(f"--max-joint-speed: {len(speed)} values for {n_joints} joints; give one, or one per joint")
    return list(speed) * (n_joints if len(speed) == 1 else 1)


def _rules(inputs: Inputs, settings: Settings) -> Rules:
    dataset, speed = inputs.dataset, _speed_limits(inputs, settings.max_joint_speed)
    limit_A = None if speed is None else np.asarray(speed) / dataset.fps
    mean_A = dataset.stats[ACTION]["mean"]
    n_moments = max(MOMENTS, settings.attention)
    return Rules(settings.protocol, inputs.action_meaning, dataset.fps, mean_A, limit_A, n_moments)


def _evaluate_episode(
    inputs: Inputs, settings: Settings, rules: Rules, facts: dict[str, Any], episode: Episode, folder: Path
) -> None:
    policy, dataset = inputs.policy, inputs.dataset
    rows = _read(inputs, episode)
    n_timed = settings.latency_steps
    if n_timed is None:
        n_timed = episode.length if policy.device.type == "cuda" else TIMED_ON_CPU
    predict = predict_queue if settings.protocol == QUEUE else predict_open_loop
    prediction = predict(policy, dataset, episode, rows, settings.batch_size, n_timed)
    frames = np.arange(episode.length)
    require_finite(prediction.executed_TA, "the policy's prediction", episode, frames)
    if settings.protocol != QUEUE:
        require_finite(prediction.chunk_SCA, "the policy's prediction", episode, prediction.start_S)
    scores = score_episode(rows[ACTION], positions(dataset, rows[STATE]), prediction, rules)
    states = dataset.features[STATE].names or [f"joint_{i}" for i in range(rows[STATE].shape[1])]
    # The parquet file comes last: with it the episode is done.
    table = episode_table(rows, prediction.executed_TA, prediction.latency_T_s, states, dataset.joint_names, facts)
    scores.save(_scores_file(folder, episode))
    with atomic_path(folder / episode_file(episode)) as temporary:
        pq.write_table(table, temporary)


def _read(inputs: Inputs, episode: Episode) -> Columns:
    seen = [STATE, ENVIRONMENT] if inputs.policy.checkpoint.shape.environment_dim else [STATE]
    return read_rows(inputs.dataset, episode, [*seen, ACTION, "episode_index", "frame_index", "timestamp"])


def _first_call(inputs: Inputs) -> float:
    episode = inputs.episodes[0]
    return time_first_call(inputs.policy, inputs.dataset, episode, _read(inputs, episode))


def _scores_file(folder: Path, episode: Episode) -> Path:
    return folder / f"scores_{episode.number:03d}.npz"


def _episode_path(folder: Path, out: Path, episode: Episode) -> Path:
    """Where an episode's parquet file is: a kill during the last moves leaves some in `out` already."""
    here = folder / episode_file(episode)
    return here if here.exists() else out / episode_file(episode)


def _is_done(folder: Path, out: Path, episode: Episode) -> bool:
    return _scores_file(folder, episode).exists() and _episode_path(folder, out, episode).exists()


def _draw_first(path: Path, inputs: Inputs, stored: _Stored, facts: dict[str, Any]) -> None:
    episode = inputs.episodes[0]
    scores, rows = stored.of(episode), _read(inputs, episode)
    fans = list(zip(scores.fan_F.tolist(), scores.fan_FCA, strict=True))
    with atomic_path(path) as temporary:
        draw_curves(
            temporary,
            rows[ACTION],
            positions(inputs.dataset, rows[STATE]),
            scores.executed_TA,
            fans,
            episode.number,
            facts,
        )


def _join_tables(path: Path, parts: Sequence[Path]) -> None:
    with pq.ParquetWriter(path, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))

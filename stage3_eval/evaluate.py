"""Evaluate a policy on episodes of a dataset: per-frame parquet files, a summary and a page."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from common.cli.command import UserError
from common.lerobot.metadata import ACTION, ENVIRONMENT, STATE, Episode
from common.storage.files import write_json
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.scores import EpisodeScores, score_episode
from stage3_eval.metrics.summary import MEANING_UNKNOWN, OPEN_LOOP, QUEUE, Header, Protocol, Summary
from stage3_eval.metrics.table import episode_table
from stage3_eval.metrics.totals import summarize_evaluation
from stage3_eval.output import ALL_EPISODES, PAGE, SUMMARY, episode_file, new_results, read_finished
from stage3_eval.predict import predict_open_loop, predict_queue, time_first_call
from stage3_eval.recording import Columns, positions, read_rows, require_finite
from stage3_eval.report.page import write_page
from stage3_eval.report.rrd import write_recording

log = logging.getLogger(__name__)
TIMED_ON_CPU = 50  # frames per episode: enough for percentiles, little against the evaluation itself
MOMENTS = 6  # worst moments on the page, unless more are asked for
PREDICTION = "the policy's prediction"
OTHER_WEIGHTS = "its weights have diverged or are damaged: evaluate another checkpoint"


class Settings(NamedTuple):
    """The flags beyond the inputs."""

    protocol: Protocol = OPEN_LOOP
    batch_size: int = 32
    latency_steps: int | None = None
    max_joint_speed: Sequence[float] | None = None  # radians per second: one for all joints, or one each
    attention: int = 0  # worst moments for which input attribution is shown
    rerun: Path | None = None  # a recording for Rerun


def evaluate(inputs: Inputs, out: Path, settings: Settings) -> Summary:
    """Evaluate every episode into `out` and return the summary; a finished evaluation is only read again.

    Two batches of images are in memory, and the scores of all episodes. Raises UserError when an image or a number of the
    dataset is damaged, or `out` holds something else.
    """
    header = _header(inputs, settings)
    finished = read_finished(out, header)
    if finished is not None:
        if settings.rerun:
            raise UserError(f"--rerun: the evaluation in {out} is finished, its chunks are gone; choose another --out")
        return finished
    with new_results(out) as folder:
        first = inputs.episodes[0]
        first_call_s = time_first_call(inputs.policy, inputs.dataset, first, _read(inputs, first))
        scores = [_evaluate_episode(inputs, settings, header, episode, folder) for episode in inputs.episodes]
        summary = summarize_evaluation(header, inputs.episodes, scores, first_call_s)
        if len(scores) > 1:
            _join_tables(folder / ALL_EPISODES, [folder / episode_file(episode.number) for episode in inputs.episodes])
        by_number = {episode.number: found for episode, found in zip(inputs.episodes, scores, strict=True)}
        write_page(folder / PAGE, summary, inputs, by_number, settings.attention)
        if settings.rerun:
            write_recording(settings.rerun, summary, inputs, by_number, settings.attention)
        write_json(folder / SUMMARY, summary.to_json())
    log.info("open %s to see the results", out / PAGE)
    return summary


def _header(inputs: Inputs, settings: Settings) -> Header:
    policy, dataset = inputs.policy, inputs.dataset
    record = policy.checkpoint.train_config
    return Header(
        protocol=settings.protocol,
        checkpoint=str(inputs.folder.resolve()),
        checkpoint_sha256=inputs.checkpoint_sha256,
        checkpoint_files=inputs.files,
        dataset=str(dataset.root.resolve()),
        dataset_fingerprint=dataset.fingerprint,
        rename=dataset.rename,
        action_meaning=inputs.action_meaning,
        left_out=None if inputs.action_meaning else MEANING_UNKNOWN,
        units=_units(inputs),
        other_units=_other_units(inputs),
        fps=dataset.fps,
        chunk_size=policy.chunk_size,
        n_action_steps=policy.n_action_steps,
        temporal_ensemble_coeff=policy.temporal_ensemble_coeff,
        joint_names=list(dataset.joint_names),
        episodes=[episode.number for episode in inputs.episodes],
        frames=sum(episode.length for episode in inputs.episodes),
        held_out=inputs.held_out,
        training={key: record[key] for key in ("config", "val_episodes", "git_commit", "versions") if key in record},
        device=policy.device.type,
        batch_size=settings.batch_size,
        latency_steps=settings.latency_steps,
        max_joint_speed=_speed_limits(inputs, settings.max_joint_speed),
        attention=settings.attention,
    )


def _units(inputs: Inputs) -> str:
    """Datasets of stage1_convert are in radians, and only they say what actions mean; other tools may write degrees."""
    ours = inputs.dataset.action_meaning or inputs.policy.action_meaning
    is_radian = inputs.dataset.features[ACTION].info.get("unit", "radian") == "radian"
    return "rad" if ours and is_radian else "the dataset's units"


def _other_units(inputs: Inputs) -> list[str]:
    """Return the dimensions that are no angles, where others are."""
    found = inputs.dataset.other_units if _units(inputs) == "rad" else ()
    return [] if len(found) == len(inputs.dataset.joint_names) else list(found)


def _speed_limits(inputs: Inputs, speed: Sequence[float] | None) -> list[float | None] | None:
    """Return the limit of each joint; a single one, in rad/s, is none for dimensions that are no angles."""
    names, other_units = inputs.dataset.joint_names, _other_units(inputs)
    if speed is None:
        return None
    if inputs.action_meaning is None:
        raise UserError(f"--max-joint-speed {speed[0]:g}: {MEANING_UNKNOWN}")
    if len(speed) not in (1, len(names)):
        raise UserError(f"--max-joint-speed: {len(speed)} values for {len(names)} joints; give one, or one per joint")
    return [None if name in other_units else speed[0] for name in names] if len(speed) == 1 else list(speed)


def _evaluate_episode(
    inputs: Inputs, settings: Settings, header: Header, episode: Episode, folder: Path
) -> EpisodeScores:
    """Predict, write the parquet file of the episode into `folder`, and return the scores."""
    policy, dataset = inputs.policy, inputs.dataset
    rows = _read(inputs, episode)
    n_timed = settings.latency_steps
    if n_timed is None:
        n_timed = episode.length if policy.device.type == "cuda" else TIMED_ON_CPU
    predict = predict_queue if settings.protocol == QUEUE else predict_open_loop
    prediction = predict(policy, dataset, episode, rows, settings.batch_size, n_timed)
    frames = np.arange(episode.length)
    require_finite(prediction.executed_TA, PREDICTION, episode, frames, OTHER_WEIGHTS)
    if settings.protocol != QUEUE:
        require_finite(prediction.chunk_SCA, PREDICTION, episode, prediction.start_S, OTHER_WEIGHTS)
    states = dataset.features[STATE].names or [f"joint_{i}" for i in range(rows[STATE].shape[1])]
    table = episode_table(rows, prediction.executed_TA, prediction.latency_T_s, states, header)
    pq.write_table(table, folder / episode_file(episode.number))
    position_TA, mean_A = positions(dataset, rows[STATE], inputs.action_meaning), dataset.stats[ACTION]["mean"]
    return score_episode(
        episode, rows[ACTION], position_TA, prediction, header, mean_A, max(MOMENTS, settings.attention)
    )


def _read(inputs: Inputs, episode: Episode) -> Columns:
    seen = [STATE, ENVIRONMENT] if inputs.policy.checkpoint.shape.environment_dim else [STATE]
    return read_rows(inputs.dataset, episode, [*seen, ACTION, "episode_index", "frame_index", "timestamp"])


def _join_tables(path: Path, parts: Sequence[Path]) -> None:
    with pq.ParquetWriter(path, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))

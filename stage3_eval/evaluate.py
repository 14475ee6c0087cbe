"""A policy and a dataset's episodes in; per-frame parquet files, a summary and curves out.

Letters in array names: T frames of an episode, C chunk steps, A action dimensions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from common.checkpoint import ENVIRONMENT
from common.command import UserError
from common.dataset import ACTION, STATE, Dataset, Episode
from common.files import write_json
from common.frames import default_cache_dir
from stage3_eval import metrics
from stage3_eval.curves import draw_curves
from stage3_eval.inputs import Inputs
from stage3_eval.metrics import FIRST_STEP, VALID_HORIZON, Errors
from stage3_eval.output import ALL_EPISODES, CURVES, FORMAT, FORMAT_VERSION, SUMMARY, result_folder
from stage3_eval.predict import predict_episode, time_first_call
from stage3_eval.table import episode_table

TIMED_ON_CPU = 50  # frames per episode: enough for percentiles, little against the evaluation itself
Columns = dict[str, npt.NDArray[Any]]
Predictors = dict[str, Errors]  # `policy` and the baselines


def evaluate(inputs: Inputs, out: Path, batch_size: int, latency_steps: int | None) -> dict[str, Any]:
    """Evaluate every episode, write `out` as a whole and return the summary.

    Two batches of pictures are in memory, however many episodes there are. Raises UserError when a picture or a number
    of the dataset is damaged; `out` is then as it was.
    """
    policy, dataset, episodes = inputs.policy, inputs.dataset, inputs.episodes
    facts = _facts(inputs)
    seen = [STATE, ENVIRONMENT] if policy.checkpoint.shape.environment_dim else [STATE]
    names = [*seen, ACTION, "episode_index", "frame_index", "timestamp"]
    whole = dataset.columns(names, default_cache_dir())
    n_timed = latency_steps
    if n_timed is None:
        n_timed = dataset.n_frames if policy.device.type == "cuda" else TIMED_ON_CPU
    first_call_s = time_first_call(policy, dataset, episodes[0], _rows(whole, episodes[0]))
    errors, latencies = [], []
    with result_folder(out) as folder:
        for episode in episodes:
            rows = _rows(whole, episode)
            for key in (STATE, ACTION):
                _require_finite(rows[key], f"{dataset.root}: {key}", episode)
            chunk_TCA, latency_T_s = predict_episode(policy, dataset, episode, rows, batch_size, n_timed)
            _require_finite(chunk_TCA, "the policy's prediction", episode)
            errors.append(_compare(rows, chunk_TCA, dataset, facts["action_meaning"]))
            latencies.append(latency_T_s[np.isfinite(latency_T_s)])
            states = dataset.features[STATE].names or [f"joint_{i}" for i in range(rows[STATE].shape[1])]
            table = episode_table(rows, chunk_TCA[:, 0], latency_T_s, states, dataset.joint_names, facts)
            pq.write_table(table, folder / _file_name(episode))
            if episode is episodes[0]:
                draw_curves(folder / CURVES, rows, chunk_TCA, dataset.joint_names, dataset.fps, facts)
        if len(episodes) > 1:
            _join_tables(folder / ALL_EPISODES, [folder / _file_name(episode) for episode in episodes])
        latency = _describe_latency(np.concatenate(latencies), first_call_s, policy.device.type)
        summary = {**facts, **_describe_scores(errors, inputs), "latency": latency}
        write_json(folder / SUMMARY, summary)
    return summary


def _facts(inputs: Inputs) -> dict[str, Any]:
    meaning = inputs.policy.action_meaning or inputs.dataset.action_meaning
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "protocol": "open_loop",
        "checkpoint_sha256": inputs.checkpoint_sha256,
        "dataset_fingerprint": inputs.dataset.fingerprint,
        "action_meaning": meaning,
        "units": "rad" if meaning else "the dataset's units",  # only our converter says what actions mean: in radians
    }


def _rows(columns: Columns, episode: Episode) -> Columns:
    return {key: values[episode.start : episode.stop] for key, values in columns.items()}


def _file_name(episode: Episode) -> str:
    return f"episode_{episode.number:03d}.parquet"


def _require_finite(values_TN: npt.NDArray[Any], what: str, episode: Episode) -> None:
    bad_T = ~np.isfinite(values_TN.reshape(len(values_TN), -1)).all(axis=1)
    if bad_T.any():
        where = f"episode {episode.number}, frame {int(bad_T.argmax())}"
        raise UserError(f"{what} is not finite: {where}; leave the episode out or mend its source")


def _compare(rows: Columns, chunk_TCA: npt.NDArray[np.float32], dataset: Dataset, meaning: str | None) -> Predictors:
    actions = metrics.baseline_actions(rows[ACTION], rows[STATE], dataset.stats[ACTION]["mean"], meaning)
    chunks = {name: metrics.as_chunks(action_TA, chunk_TCA.shape[1]) for name, action_TA in actions.items()}
    return {name: metrics.chunk_errors(of, rows[ACTION]) for name, of in {"policy": chunk_TCA, **chunks}.items()}


def _join_tables(path: Path, parts: Sequence[Path]) -> None:
    with pq.ParquetWriter(path, pq.read_schema(parts[0])) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))


def _describe_scores(errors: Sequence[Predictors], inputs: Inputs) -> dict[str, Any]:
    dataset, episodes = inputs.dataset, inputs.episodes
    by_episode = []
    for episode, of in zip(episodes, errors, strict=True):
        scores = _score(of, dataset.joint_names)
        mae = {scope: scores["policy"][scope]["mae"] for scope in (FIRST_STEP, VALID_HORIZON)}
        ratio = scores["ratio_to_best_baseline"]
        by_episode.append(
            {"episode_index": episode.number, "frames": episode.length, "mae": mae, "ratio_to_best_baseline": ratio}
        )
    return {
        "fps": dataset.fps,
        "chunk_size": inputs.policy.chunk_size,
        "joint_names": list(dataset.joint_names),
        "episodes": [episode.number for episode in episodes],
        "frames": sum(episode.length for episode in episodes),
        **_score({name: metrics.together([of[name] for of in errors]) for name in errors[0]}, dataset.joint_names),
        "by_episode": by_episode,
    }


def _score(errors: Predictors, joints: Sequence[str]) -> dict[str, Any]:
    baselines = {name: metrics.summarise(of, joints) for name, of in errors.items()}
    policy = baselines.pop("policy")
    best = {scope: metrics.compare_to_best(policy, baselines, scope) for scope in (FIRST_STEP, VALID_HORIZON)}
    return {
        "policy": policy,
        "baselines": baselines,
        "best_baseline": {scope: name for scope, (name, _) in best.items()},
        "ratio_to_best_baseline": {scope: ratio for scope, (_, ratio) in best.items()},
    }


def _describe_latency(seconds: npt.NDArray[np.float64], first_call_s: float, device: str) -> dict[str, Any]:
    points = np.percentile(seconds, (50, 95, 99)).tolist() if len(seconds) else [None] * 3
    times = dict(zip(("p50_s", "p95_s", "p99_s"), points, strict=True))
    return {"device": device, "batch_size": 1, "n": len(seconds), **times, "first_call_s": first_call_s}

"""The report that an evaluation prints: error per joint next to each baseline's, drift, latency and the verdict. Pure."""

import math
import textwrap
from itertools import zip_longest

from common.report.formatting import counted
from stage3_eval.metrics.motion import FROM_COMMANDED, FROM_MEASURED
from stage3_eval.metrics.summary import FIRST_STEP, VALID_HORIZON, Drifts, Latency, Summary
from stage3_eval.report.verdict import coverage, describe_baseline, verdict

WIDTH = 15  # of a column


def report(summary: Summary) -> str:
    """Return the printed report."""
    return "\n".join(
        [
            f"{counted(len(summary.episodes), 'episode')}, {counted(summary.frames, 'frame')}, "
            f"{summary.protocol}: {_protocol(summary)}",
            "",
            f"mean absolute error over the chunk's valid horizon, in {summary.units}",
            *_table(summary),
            *filter(None, [coverage(summary)]),
            "",
            f"first step only: {verdict(summary, FIRST_STEP).answer}",
            _drift(summary.drift, summary.units) if summary.drift else f"{summary.left_out}",
            _latency(summary.latency),
            verdict(summary, VALID_HORIZON).answer,
        ]
    )


def _protocol(summary: Summary) -> str:
    actions = f"{summary.action_meaning or ''} actions".strip()
    if summary.protocol == "open_loop":
        return f"a new chunk of {summary.chunk_size} {actions} from every recorded observation"
    if summary.temporal_ensemble_coeff is not None:
        return f"{actions} averaged over all chunks so far, as on the robot"
    return f"{actions}, {summary.n_action_steps} executed of each chunk, as on the robot"


def _table(summary: Summary) -> list[str]:
    columns = {"policy": summary.policy, **summary.baselines}
    horizons = [errors.valid_horizon for errors in columns.values()]
    rows = {joint: [horizon.per_joint[joint].mae for horizon in horizons] for joint in summary.joint_names}
    rows["overall"] = [horizon.mae for horizon in horizons]
    if summary.units == "rad":
        rows["overall, degrees"] = [math.degrees(value) for value in rows["overall"]]
    rows["overall, first step"] = [errors.first_step.mae for errors in columns.values()]
    left = max(map(len, rows))
    heads = [textwrap.wrap(describe_baseline(name), WIDTH - 2) for name in columns]
    lines = [" " * left + "".join(f"{word:>{WIDTH}}" for word in line) for line in zip_longest(*heads, fillvalue="")]
    for name, values in rows.items():
        lines.append(f"{name:<{left}}" + "".join(f"{value:{WIDTH}.6f}" for value in values))
    return lines


def _drift(drifts: Drifts, units: str) -> str:
    starts = {FROM_MEASURED: "from the measured position", FROM_COMMANDED: "from the last commanded one"}
    parts = []
    for start, where in starts.items():
        drift = drifts[start]["1.0s"]
        parts.append(f"{'unknown (too short)' if drift is None else f'{drift.mean:.4f}'} {where}")
    return f"drift of a joint after 1 s, in {units}: {', '.join(parts)}"


def _latency(latency: Latency) -> str:
    percentiles = {"p50": latency.p50_s, "p95": latency.p95_s, "p99": latency.p99_s}
    times = [f"{name} {1000 * value:.1f} ms" for name, value in percentiles.items() if value is not None]
    times.append(f"first call {1000 * latency.first_call_s:.1f} ms")
    return f"latency on {latency.device}, batch 1, {latency.n} warm predictions: {', '.join(times)}"

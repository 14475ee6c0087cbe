"""The summary of an evaluation in, the table that a person reads out. Pure."""

import math
from typing import Any

from stage3_eval.metrics.motion import FROM_COMMANDED, FROM_MEASURED
from stage3_eval.metrics.summary import FIRST_STEP, VALID_HORIZON
from stage3_eval.report.formatting import verdict


def report(summary: dict[str, Any]) -> str:
    """Return the printed report: error per joint beside each baseline's, ratios, latency and a verdict."""
    return "\n".join(
        [
            f"{len(summary['episodes'])} episodes, {summary['frames']} frames, {summary['protocol']}: {_protocol(summary)}",
            "",
            f"mean absolute error over the chunk's valid horizon, in {summary['units']}",
            *_table(summary),
            "",
            f"first step only: {verdict(summary, FIRST_STEP)}",
            _drift(summary),
            _latency(summary["latency"]),
            verdict(summary, VALID_HORIZON),
        ]
    )


def _protocol(summary: dict[str, Any]) -> str:
    actions = f"{summary['action_meaning']} actions"
    if summary["protocol"] == "open_loop":
        return f"a new chunk of {summary['chunk_size']} {actions} from every recorded observation"
    if summary["temporal_ensemble_coeff"] is not None:
        return f"{actions} averaged over all chunks so far, as on the robot"
    return f"{actions}, {summary['n_action_steps']} executed of each chunk, as on the robot"


def _table(summary: dict[str, Any]) -> list[str]:
    columns = {"policy": summary["policy"], **summary["baselines"]}
    rows = {
        joint: [of[VALID_HORIZON]["per_joint"][joint]["mae"] for of in columns.values()]
        for joint in summary["joint_names"]
    }
    rows["overall"] = [of[VALID_HORIZON]["mae"] for of in columns.values()]
    if summary["units"] == "rad":
        rows["overall, degrees"] = [math.degrees(value) for value in rows["overall"]]
    rows["overall, first step"] = [of[FIRST_STEP]["mae"] for of in columns.values()]
    left, names = max(map(len, rows)), [_words(name) for name in columns]
    widths = [max(12, len(name) + 2) for name in names]
    head = " " * left + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    lines = [
        f"{row:<{left}}" + "".join(f"{v:{w}.6f}" for v, w in zip(of, widths, strict=True)) for row, of in rows.items()
    ]
    return [head, *lines]


def _drift(summary: dict[str, Any]) -> str:
    told = []
    for start, words in (
        (FROM_MEASURED, "from the measured position"),
        (FROM_COMMANDED, "from the last commanded one"),
    ):
        of = summary["drift"][start]["1.0s"]
        told.append(f"{'unknown (too short)' if of is None else format(of['mean'], '.4f')} {words}")
    return f"drift of a joint after 1 s, in {summary['units']}: {', '.join(told)}"


def _latency(latency: dict[str, Any]) -> str:
    names = [name for name in ("p50", "p95", "p99") if latency[f"{name}_s"] is not None]
    times = "".join(f"{name} {1000 * latency[f'{name}_s']:.1f} ms, " for name in names)
    return (
        f"latency on {latency['device']}, batch 1, {latency['n']} warm predictions: {times}"
        f"first call {1000 * latency['first_call_s']:.1f} ms"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")

"""The page of an evaluation, report.html: one self-contained file, the verdict first, then the evidence."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from common.report import render
from common.report.charts import Line, Mark, Plot, histogram, line_chart
from common.storage.files import write_file
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.motion import FROM_COMMANDED, FROM_MEASURED
from stage3_eval.metrics.scores import POLICY, EpisodeScores
from stage3_eval.metrics.summary import VALID_HORIZON, ChunkErrors, Summary
from stage3_eval.output import episode_file
from stage3_eval.report.gallery import (
    Evaluated,
    choose_drawn,
    find_moments,
    heat_limits,
    view_episode,
    view_moment,
)
from stage3_eval.report.player import images_per_episode
from stage3_eval.report.verdict import best_by_joint, coverage, describe_baseline, verdict

PROTOCOLS = {
    "open_loop": "a new chunk from every recorded observation; its step k is compared with the action recorded k frames "
    "later",
    "queue": "one action at a time as on the robot, from the recorded observations; each is compared with the action "
    "recorded at its frame",
}
STARTS = {FROM_MEASURED: "each chunk from the measured position", FROM_COMMANDED: "from the last commanded position"}


def write_page(
    path: Path, summary: Summary, inputs: Inputs, scores: Mapping[int, EpisodeScores], attention: int
) -> None:
    """Write the page; `scores` are those of each episode by its number.

    `attention` is the number of worst moments for which input attribution is shown.
    """
    evaluated = Evaluated(inputs, summary, scores)
    moments = find_moments(evaluated, attention)
    drawn = choose_drawn(summary.by_episode, moments)
    n_images = images_per_episode(len(drawn), len(evaluated.cameras))
    top_A = heat_limits(evaluated, drawn)
    page = render(
        "stage3_eval.report",
        "evaluation.html.j2",
        summary=summary,
        title=run_name(Path(summary.checkpoint)),
        verdict=verdict(summary, VALID_HORIZON),
        coverage=coverage(summary),
        protocol=PROTOCOLS[summary.protocol],
        baseline_names={name: describe_baseline(name) for name in summary.baselines},
        horizon=draw_horizon(evaluated),
        best_by_joint=best_by_joint(summary),
        moments=[view_moment(evaluated, moment, index < attention) for index, moment in enumerate(moments)],
        attention=attention,
        drawn=[view_episode(evaluated, number, top_A, n_images, moments) for number in drawn],
        heat_tops=dict(zip(summary.joint_names, top_A.tolist(), strict=True)),
        files={episode.episode_index: episode_file(episode.episode_index) for episode in summary.by_episode},
        latency=_draw_latency(evaluated),
        starts=STARTS,
    )
    write_file(path, page.encode(errors="backslashreplace"))


def run_name(checkpoint: Path) -> str:
    """Return a short name of a checkpoint: the last two parts of its path, without pretrained_model."""
    parts = checkpoint.parts[-3:-1] if checkpoint.name == "pretrained_model" else checkpoint.parts[-2:]
    return "/".join(parts)


def draw_horizon(evaluated: Evaluated) -> tuple[list[tuple[str, str]], Plot] | None:
    """Draw the error of the policy and of each baseline by how far ahead an action is; return the legend and the plot.

    None when no chunk has two compared steps, as with temporal ensembling and with queues of one action.
    """
    summary = evaluated.summary
    if len(summary.policy.mae_by_step) < 2:
        return None
    curves: list[tuple[str, str, ChunkErrors]] = []
    for name, errors in summary.baselines.items():
        if all(
            errors.mae_by_step != other.mae_by_step for _, _, other in curves
        ):  # for deltas, two baselines are the same
            curves.append((f"c{len(curves)}", describe_baseline(name), errors))
    curves.append((POLICY, "the policy", summary.policy))
    lines = [
        Line(
            name, np.arange(len(errors.mae_by_step)) / summary.fps, evaluated.shown(np.array(errors.mae_by_step)), kind
        )
        for kind, name, errors in curves
    ]
    label = "Mean error by how far ahead the action lies, of the policy and of each baseline"
    plot = line_chart(label, lines, " s", evaluated.unit(), height=220, from_zero=True)
    return [(kind, name) for kind, name, _ in curves[::-1]], plot


def _draw_latency(evaluated: Evaluated) -> Plot | None:
    seconds = [value for scores in evaluated.scores.values() for value in scores.latency_s.tolist()]
    latency = evaluated.summary.latency
    percentiles = {"p50": latency.p50_s, "p95": latency.p95_s, "p99": latency.p99_s}
    marks = [Mark(name, 1000 * value) for name, value in percentiles.items() if value is not None]
    label = "Number of predictions by duration in milliseconds"
    return histogram(label, [1000 * value for value in seconds], " ms", marks) if seconds else None

"""A summary and the scores behind it in; report.html out: one page that needs nothing else, not even a network."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.storage.files import write_file
from stage3_eval.inputs import Inputs
from stage3_eval.metrics.motion import FROM_COMMANDED, FROM_MEASURED
from stage3_eval.metrics.scores import EpisodeScores
from stage3_eval.metrics.summary import FIRST_STEP, VALID_HORIZON
from stage3_eval.output import episode_file
from stage3_eval.report.charts import Line, Mark, histogram, line_chart
from stage3_eval.report.formatting import (
    amount,
    baseline,
    both,
    document,
    escape,
    legend,
    meter,
    milliseconds,
    name_cell,
    number,
    section,
    share,
    table,
    tiles,
    times,
    verdict,
)
from stage3_eval.report.gallery import MAX_SHOWN, choose_shown, show_episodes, show_moments

MAX_ROWS = 200  # episodes listed by number; the others stand in summary.json
PROTOCOLS = {
    "open_loop": "a fresh chunk from every recorded observation; its step k is compared with the action recorded k frames "
    "later",
    "queue": "one action at a time as on the robot, fed with the recorded observations; each is compared with the action "
    "recorded at its frame",
}


def write_page(
    path: Path, summary: dict[str, Any], inputs: Inputs, scores: Mapping[int, EpisodeScores], attention: int
) -> None:
    """Write the page at once. `scores` are those of each episode by its number."""
    latency_s = [seconds for found in scores.values() for seconds in found.latency_s.tolist()]
    shown = choose_shown(summary["by_episode"])
    body = [
        _verdict(summary),
        _baselines(summary),
        _joints(summary),
        section("worst", "Worst moments", show_moments(inputs, summary, scores, shown, attention)),
        section("episodes", "Episodes", _list_episodes(summary, shown) + show_episodes(inputs, summary, scores, shown)),
        _latency(summary, latency_s),
        _robot(summary),
        _origin(summary),
    ]
    parts = ("verdict", "Verdict"), ("baselines", "Simple rules"), ("joints", "Joints"), ("worst", "Worst moments")
    rest = ("episodes", "Episodes"), ("latency", "Latency"), ("robot", "On the robot"), ("origin", "Where from")
    links = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in (*parts, *rest))
    title = f"Evaluation of {_name(summary['checkpoint'])}"
    header = f'<h1>{escape(title)}</h1><nav aria-label="Parts of this page"><ul>{links}</ul></nav>'
    footer = "Everything on this page is in <code>summary.json</code> and the parquet files beside it."
    write_file(path, document(title, header, "".join(body), footer).encode())


def _verdict(summary: dict[str, Any]) -> str:
    units, ratio = summary["units"], summary["ratio_to_best_baseline"][VALID_HORIZON]
    policy, best = summary["policy"][VALID_HORIZON], summary["best_baseline"][VALID_HORIZON]
    against = summary["baselines"][best][VALID_HORIZON]["mae"]
    drift = summary["drift"][FROM_COMMANDED]["1.0s"]
    latency, frame_s = summary["latency"], 1 / summary["fps"]
    first = summary["ratio_to_best_baseline"][FIRST_STEP]
    facts = [
        ("Mean error of an action", amount(policy["mae"], units), f"{baseline(best)}: {amount(against, units)}"),
        ("At the first step", times(first), "the error of the best simple rule there"),
        ("Drift after 1 s", amount(drift and drift["mean"], units), "mean per joint, without looking at the arm"),
        (
            "A prediction takes",
            milliseconds(latency["p50_s"]),
            f"half of the time; a frame lasts {1000 * frame_s:.0f} ms",
        ),
    ]
    kind = "verdict" if ratio is not None and ratio < 1 else "verdict no"
    what = f"{len(summary['episodes'])} episodes, {summary['frames']} frames, protocol {summary['protocol']}: "
    return (
        f'<div class="{kind}" id="verdict"><strong>{escape(verdict(summary, VALID_HORIZON))}</strong>'
        f"<p>{escape(what + PROTOCOLS[summary['protocol']])}.</p>{tiles(facts)}{_held_out(summary)}</div>"
    )


def _held_out(summary: dict[str, Any]) -> str:
    words = {
        True: "Training saw none of these episodes.",
        False: "Training saw some of these episodes: the numbers flatter the policy. Evaluate with "
        "<code>--episodes val</code>.",
        None: "Nobody recorded whether training saw these episodes; if it did, the numbers flatter the policy.",
    }[summary["held_out"]]
    return f'<p class="{"soft" if summary["held_out"] else "note"}">{words}</p>'


def _baselines(summary: dict[str, Any]) -> str:
    units = summary["units"]
    rows = {"policy": summary["policy"], **summary["baselines"]}
    top = max(of[VALID_HORIZON]["mae"] for of in rows.values())
    cells = []
    for name, of in rows.items():
        horizon = of[VALID_HORIZON]
        words = "the policy" if name == "policy" else escape(baseline(name))
        values = [both(horizon["mae"], units), meter(horizon["mae"], top)]
        values += [amount(horizon["rmse"], units), amount(horizon["max"], units), amount(of[FIRST_STEP]["mae"], units)]
        cells.append([words, *values])
    head = ["", "mean error", "", "RMSE", "largest", "first step"]
    meanings = "".join(
        f"<li><b>{escape(baseline(name))}</b> {escape(summary['baseline_meanings'][name])}</li>"
        for name in summary["baselines"]
    )
    body = table(f"Error {_compared(summary)}", head, cells, us=0)
    body += _horizon(summary) + f"<details><summary>What the simple rules do</summary><ul>{meanings}</ul></details>"
    return section("baselines", "Against simple rules", body)


def _compared(summary: dict[str, Any]) -> str:
    if summary["protocol"] == "open_loop":
        return "of an action over the whole chunk, as far as the episode goes"
    return "of an executed action"


def _horizon(summary: dict[str, Any]) -> str:
    units, fps = summary["units"], summary["fps"]
    lines, kinds = [], [("policy", "the policy")]
    to_unit = math.degrees(1.0) if units == "rad" else 1.0
    drawn: list[list[float]] = []
    for name, of in summary["baselines"].items():
        if of["mae_by_step"] in drawn:
            continue  # for deltas two of them are one
        kind = f"c{len(drawn)}"
        drawn.append(of["mae_by_step"])
        kinds.append((kind, baseline(name)))
        lines.append(_horizon_line(name, of, kind, fps, to_unit))
    lines.append(_horizon_line("policy", summary["policy"], "policy", fps, to_unit))
    if len(summary["policy"]["mae_by_step"]) < 2:
        return ""  # ensembling and queues of one action look at every frame
    title = "Mean error by how far ahead the action lies, of the policy and of each simple rule"
    chart = line_chart(title, lines, "seconds ahead", "degrees" if units == "rad" else units, 460, 220, zero=True)
    return f'<h3>How far ahead can it see?</h3>{legend(kinds)}<div class="one">{chart}</div>'


def _horizon_line(name: str, of: dict[str, Any], kind: str, fps: int, to_unit: float) -> Line:
    values = [value * to_unit for value in of["mae_by_step"]]
    return Line(name, [step / fps for step in range(len(values))], values, kind)


def _joints(summary: dict[str, Any]) -> str:
    units = summary["units"]
    horizon, baselines = summary["policy"][VALID_HORIZON], summary["baselines"]
    top = max(of["mae"] for of in horizon["per_joint"].values())
    rows = []
    for joint, of in horizon["per_joint"].items():
        best = min(other[VALID_HORIZON]["per_joint"][joint]["mae"] for other in baselines.values())
        ratio = times(of["mae"] / best if best > 0 else None)
        values = [
            both(of["mae"], units),
            meter(of["mae"], top),
            amount(of["rmse"], units),
            amount(of["max"], units),
            ratio,
        ]
        rows.append([name_cell(joint), *values])
    head = ["joint", "mean error", "", "RMSE", "largest", "times the best rule"]
    return section("joints", "By joint", table(f"The policy's error {_compared(summary)}", head, rows))


def _list_episodes(summary: dict[str, Any], shown: list[int]) -> str:
    units, rows = summary["units"], []
    for of in summary["by_episode"][:MAX_ROWS]:
        index = of["episode_index"]
        name = f'<a href="#episode-{index}">episode&nbsp;{index}</a>' if index in shown else f"episode&nbsp;{index}"
        drift = of["drift"][FROM_COMMANDED]["1.0s"]
        values = [str(of["frames"]), both(of["policy"][VALID_HORIZON]["mae"], units)]
        values += [times(of["ratio_to_best_baseline"][VALID_HORIZON]), amount(drift and drift["mean"], units)]
        link = f'<a href="{episode_file(index)}" aria-label="parquet file of episode {index}">parquet</a>'
        rows.append([name, *values, link])
    left = len(summary["by_episode"]) - MAX_ROWS
    notes = f"<p class='soft'>{left} more episodes stand in summary.json.</p>" if left > 0 else ""
    if len(summary["by_episode"]) > MAX_SHOWN:
        notes += (
            f'<p class="soft">Drawn below are {len(shown)} of {len(summary["by_episode"])} episodes: those with the largest '
            "error and, last, the best ones. The frames of all of them are in the parquet files.</p>"
        )
    head = ["", "frames", "mean error", "times the best rule", "drift after 1 s", "frames of"]
    return table("Every episode", head, rows) + notes


def _latency(summary: dict[str, Any], latency_s: list[float]) -> str:
    latency, frame_s = summary["latency"], 1 / summary["fps"]
    where = f"{latency['machine']}, {latency['device']}, {latency['threads']} threads, PyTorch {latency['torch']}"
    facts = [
        ("p50", milliseconds(latency["p50_s"]), "half of the calls are faster"),
        ("p95", milliseconds(latency["p95_s"]), "95 of 100 are faster"),
        ("p99", milliseconds(latency["p99_s"]), "99 of 100 are faster"),
        ("First call", milliseconds(latency["first_call_s"]), "cold, before everything else"),
    ]
    body = (
        f"<p>{latency['n']} warm predictions, each of one observation, timed one by one on {escape(where)}. Taking an action "
        f"from a queue is not counted. A frame lasts {1000 * frame_s:.1f} ms; a prediction that takes longer needs "
        "<code>n_action_steps</code> large enough to hide it.</p>" + tiles(facts)
    )
    if latency_s:
        marks = [Mark(name, 1000 * latency[f"{name}_s"]) for name in ("p50", "p95", "p99")]
        title = "How often a prediction took how many milliseconds"
        body += f'<div class="one">{histogram(title, [1000 * s for s in latency_s], "milliseconds", marks)}</div>'
    return section("latency", "Latency", body)


def _robot(summary: dict[str, Any]) -> str:
    units, robot, drift = summary["units"], summary["robot"], summary["drift"]
    starts = {
        FROM_MEASURED: "each chunk from the measured position",
        FROM_COMMANDED: "from the last commanded position",
    }
    rows = []
    for start, words in starts.items():
        told = [drift[start][after] for after in ("0.5s", "1.0s")]
        cells = [both(of and of[key], units) for of in told for key in ("mean", "max")]
        rows.append([words, *cells])
    head = ["", "0.5 s: mean", "largest", "1 s: mean", "largest"]
    body = f"<p>This policy's actions are <b>{summary['action_meaning']}</b>: {escape(robot['apply'])}.</p>"
    body += table("Drift of a joint: how far from where the recorded actions lead", head, rows)
    if any(of is None for start in starts for of in drift[start].values()):
        body += '<p class="soft">A dash: what is executed of one chunk, or the episode, is shorter than that.</p>'
    return section("robot", "On the robot", body + _speeds(summary))


def _speeds(summary: dict[str, Any]) -> str:
    units, robot = summary["units"], summary["robot"]
    limit = robot["speed_limit_per_s"]
    rows = []
    for joint in summary["joint_names"]:
        cells = [both(robot["largest_step"][joint], units), amount(robot["largest_recorded_step"][joint], units)]
        cells.append(f"{number(robot['largest_speed_per_s'][joint])} {'rad/s' if units == 'rad' else '/s'}")
        if limit is not None:
            over, recorded = robot["share_over_limit"][joint], robot["recorded_share_over_limit"][joint]
            cells += [f"{number(limit[joint])}", share(over), share(recorded)]
        rows.append([name_cell(joint), *cells])
    head = ["joint", "largest step", "recorded", "largest speed"]
    head += [] if limit is None else ["limit per s", "frames over it", "recorded frames over it"]
    note = (
        "" if limit else '<p class="soft">With <code>--max-joint-speed</code> this table counts the frames over it.</p>'
    )
    return table("How far a joint is commanded to move within one frame", head, rows) + note


def _origin(summary: dict[str, Any]) -> str:
    keys = (
        "checkpoint",
        "checkpoint_sha256",
        "dataset",
        "dataset_fingerprint",
        "protocol",
        "action_meaning",
        "units",
        "fps",
    )
    rows = [[key.replace("_", " "), f"<code>{escape(str(summary[key]))}</code>"] for key in keys]
    chunk = f"{summary['chunk_size']} actions, {summary['n_action_steps']} executed of each"
    rows.append(["chunk", escape(chunk)])
    body = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return section("origin", "Where these numbers come from", f'<dl class="origin">{body}</dl>')


def _name(checkpoint: str) -> str:
    path = Path(checkpoint)
    parts = path.parts[-3:-1] if path.name == "pretrained_model" else path.parts[-2:]
    return "/".join(parts)

"""Several evaluations, or checkpoints to evaluate first, in; a table, the winner and a page side by side out."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common.cli.command import UserError
from common.storage.files import read_json, require_ours, write_file, write_json
from stage3_eval.compare.page import page
from stage3_eval.compare.ranking import COLUMNS, Lead, changed, incomparable, lead, look_up, ranked, value, verdict
from stage3_eval.output import FORMAT, FORMAT_VERSION, SUMMARY

CSV, JSON, PAGE, EVALUATIONS = "comparison.csv", "comparison.json", "comparison.html", "evaluations"


class Result(NamedTuple):
    """One of the compared: its summary and, where its run lies on this machine, the training's metrics."""

    label: str
    summary: dict[str, Any]
    losses: list[tuple[float, float]]  # (step, loss)
    link: str | None  # to its page, from the comparison's


def compare(paths: Sequence[Path], out: Path, metric: str, evaluate: Callable[[Path, Path], object] | None) -> str:
    """Compare results, evaluating checkpoints by `evaluate(path, folder)` first, write `out` and return the report.

    Raises UserError when a path is neither, when there is nothing to evaluate checkpoints on, or when `out` holds something
    else.
    """
    require_ours(out, "comparison of ours", names=(CSV, JSON, PAGE, EVALUATIONS, ".tmp-*"))
    labels = label(paths)
    folders = {}
    for name, path in zip(labels, paths, strict=True):
        folders[name] = path
        if is_result(path):
            continue
        if evaluate is None:
            raise UserError(
                f"--compare {path}: no {SUMMARY} in it; give results, or --dataset to evaluate checkpoints on"
            )
        folders[name] = out / EVALUATIONS / re.sub(r"[^\w.-]+", "_", name)
        evaluate(path, folders[name])
    results = [_read(name, folder, out) for name, folder in folders.items()]
    told = describe(results, metric)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / CSV, _table(results, told).encode())
    write_file(out / PAGE, page(results, told).encode())
    write_json(out / JSON, told)
    return "\n".join([*_lines(told), "", verdict(told)])


def label(paths: Sequence[Path]) -> list[str]:
    """Return what tells the paths apart: what follows the folder they have in common."""
    whole = [path.resolve() for path in paths]
    if len(set(whole)) < len(whole) or len(whole) < 2:
        raise UserError("--compare: give at least two folders, each once")
    root = Path(os.path.commonpath(whole))
    parts = [path.relative_to(root).parts for path in whole]
    while all(len(of) > 1 for of in parts) and len({of[-1] for of in parts}) == 1:
        parts = [of[:-1] for of in parts]  # such as /pretrained_model, which all of them end in
    return ["/".join(of) or root.name for of in parts]


def is_result(path: Path) -> bool:
    """Whether a folder holds a finished evaluation; raises UserError when it is one of an older version."""
    if not (path / SUMMARY).is_file():
        return False
    summary = read_json(path / SUMMARY)
    if (
        not isinstance(summary, dict)
        or summary.get("format") != FORMAT
        or summary.get("format_version") != FORMAT_VERSION
    ):
        raise UserError(f"{path / SUMMARY} is not of this version of stage3_eval; evaluate again")
    return True


def describe(results: Sequence[Result], metric: str) -> dict[str, Any]:
    """Return comparison.json: values, order, winner, lead, changed hyperparameters. Pure."""
    summaries = {result.label: result.summary for result in results}
    order = ranked(summaries, metric)
    reason = incomparable(summaries)
    winner, second = order[:2]
    found: Lead | None = None if reason else lead(summaries[winner], summaries[second], metric)
    return {
        "format": "stage3_eval_comparison",
        "metric": metric,
        "order": order,
        "values": {name: value(summaries[name], metric, name) for name in order},
        "columns": {name: {head: look_up(summaries[name], path) for head, path in COLUMNS.items()} for name in order},
        "winner": None if reason else winner,
        "incomparable": reason,
        "runner_up": second,
        "lead": None if found is None else {**found._asdict(), "larger_than_spread": found.larger_than_spread},
        "changed": changed({name: summaries[name]["training"].get("config", {}) for name in order}),
        "checkpoints": {name: summaries[name]["checkpoint"] for name in order},
        "episodes": {name: summaries[name]["episodes"] for name in order},
    }


def _read(name: str, folder: Path, out: Path) -> Result:
    summary: dict[str, Any] = read_json(folder / SUMMARY)
    run = Path(summary["checkpoint"]).parents[1]
    page = folder / "report.html"
    link = os.path.relpath(page.resolve(), out.resolve()) if page.is_file() else None
    return Result(name, summary, _losses(run / "metrics.jsonl"), link)


def _losses(path: Path) -> list[tuple[float, float]]:
    """Read the L1 part of the loss, which no weight of another part blurs; nothing where there is no such file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            rows.append((float(row["step"]), float(row["l1_loss"])))
        except (ValueError, KeyError, TypeError):  # a line that was cut off, or one about something else
            continue
    return rows


def _table(results: Sequence[Result], told: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    paths = [path for path in COLUMNS.values() if path != told["metric"]]
    writer.writerow(["name", told["metric"], *paths, *told["changed"], "checkpoint"])
    summaries = {result.label: result.summary for result in results}
    for name in told["order"]:
        numbers = [told["values"][name], *(look_up(summaries[name], path) for path in paths)]
        writer.writerow([name, *numbers, *(of[name] for of in told["changed"].values()), told["checkpoints"][name]])
    return text.getvalue()


def _lines(told: dict[str, Any]) -> list[str]:
    left = max(len(name) for name in told["order"])
    rows = [f"{name:<{left}}  {told['values'][name]:.6g}" for name in told["order"]]
    settings = [f"{key}: " + ", ".join(f"{of[name]}" for name in told["order"]) for key, of in told["changed"].items()]
    return [
        f"{told['metric']}, best first",
        "",
        *rows,
        *(["", "changed, in the same order", *settings] if settings else []),
    ]

"""Compare several evaluations, or checkpoints that are evaluated first: a table, the winner and a page."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from common.cli.command import UserError
from common.storage.files import require_ours, write_file, write_json
from stage3_eval.compare.page import page
from stage3_eval.compare.ranking import COLUMNS, Comparison, Result, compare_summaries, verdict
from stage3_eval.output import PAGE as EVALUATION_PAGE
from stage3_eval.output import SUMMARY, read_summary

CSV, JSON, PAGE, EVALUATIONS = "comparison.csv", "comparison.json", "comparison.html", "evaluations"


def compare(paths: Sequence[Path], out: Path, metric: str, evaluate: Callable[[Path, Path], object] | None) -> str:
    """Compare results, evaluating checkpoints by `evaluate(path, folder)` first, write `out` and return the report.

    Raises UserError when a path is neither, when there is no dataset to evaluate checkpoints on, or when `out` holds
    something else.
    """
    require_ours(out, "comparison", names=(CSV, JSON, PAGE, EVALUATIONS, ".tmp-*"))
    folders = dict(zip(label(paths), paths, strict=True))
    results = []
    for name, path in folders.items():
        folder = path
        if not (path / SUMMARY).is_file():
            if evaluate is None:
                raise UserError(
                    f"--compare {path}: no {SUMMARY} in it; give results, or --dataset to evaluate checkpoints on"
                )
            folder = out / EVALUATIONS / re.sub(r"[^\w.-]+", "_", name)
            evaluate(path, folder)
        results.append(_read(name, folder, out))
    comparison = compare_summaries({result.label: result.summary for result in results}, metric)
    out.mkdir(parents=True, exist_ok=True)
    write_file(out / CSV, _table(comparison).encode())
    write_file(out / PAGE, page(results, comparison).encode())
    write_json(out / JSON, comparison.model_dump(mode="json"))
    return "\n".join([*_lines(comparison), "", verdict(comparison)])


def label(paths: Sequence[Path]) -> list[str]:
    """Return a short name of each path: the part below their common folder, without an ending that all of them share."""
    absolute = [path.resolve() for path in paths]
    if len(set(absolute)) < len(absolute) or len(absolute) < 2:
        raise UserError("--compare: give at least two folders, each once")
    root = Path(os.path.commonpath(absolute))
    names = [path.relative_to(root).parts for path in absolute]
    while all(len(parts) > 1 for parts in names) and len({parts[-1] for parts in names}) == 1:
        names = [parts[:-1] for parts in names]  # such as /pretrained_model
    return ["/".join(parts) or root.name for parts in names]


def _read(name: str, folder: Path, out: Path) -> Result:
    summary = read_summary(folder)
    run, page = Path(summary.checkpoint).parents[1], folder / EVALUATION_PAGE
    link = os.path.relpath(page.resolve(), out.resolve()) if page.is_file() else None
    return Result(name, summary, _losses(run / "metrics.jsonl"), link)


def _losses(path: Path) -> list[tuple[float, float]]:
    """Return (step, L1 part of the loss), which does not depend on loss weights; empty where there is no such file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            rows.append((float(row["step"]), float(row["l1_loss"])))
        except (ValueError, KeyError, TypeError):  # a line that was cut off, or one about something else
            continue
    return rows


def _table(comparison: Comparison) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [head for head in comparison.columns[comparison.order[0]] if COLUMNS[head] != comparison.metric]
    paths = [COLUMNS[head] for head in heads]
    writer.writerow(["name", comparison.metric, *paths, *comparison.changed, "checkpoint"])
    for name in comparison.order:
        numbers = [comparison.values[name], *(comparison.columns[name][head] for head in heads)]
        settings = [values[name] for values in comparison.changed.values()]
        writer.writerow([name, *numbers, *settings, comparison.checkpoints[name]])
    return text.getvalue()


def _lines(comparison: Comparison) -> list[str]:
    width = max(len(name) for name in comparison.order)
    lines = [f"{comparison.metric}, best first", ""]
    lines += [f"{name:<{width}}  {comparison.values[name]:.6g}" for name in comparison.order]
    if comparison.changed:
        lines += ["", "changed, in the same order"]
    for key, values in comparison.changed.items():
        lines.append(f"{key}: " + ", ".join(f"{values[name]}" for name in comparison.order))
    return lines

"""A sweep is compared: three trained runs, whose checkpoints are evaluated and ranked."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from common.cli.command import UserError
from stage3_eval.__main__ import main
from stage3_eval.compare.compare import label
from tests.browser import check_page, visit
from tests.stage3_eval.conftest import RATES, Sweep


def compare(*words: object) -> int:
    return main([str(word) for word in ("--compare", *words)])


@pytest.fixture(scope="module")
def out(sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All three runs, evaluated on all episodes and compared."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    flags = ("--dataset", sweep.dataset, "--out", out, "--episodes", "all", "--latency-steps", 2, "--device", "cpu")
    assert compare(*sweep.runs.values(), *flags) == 0
    return out


def read(out: Path) -> dict[str, Any]:
    comparison: dict[str, Any] = json.loads((out / "comparison.json").read_text())
    return comparison


def test_every_run_is_evaluated_and_ranked(out: Path) -> None:
    comparison = read(out)
    assert sorted(comparison["order"]) == sorted(RATES)
    assert comparison["values"] == {
        name: json.loads((out / "evaluations" / name / "summary.json").read_text())["policy"]["valid_horizon"]["mae"]
        for name in comparison["order"]
    }
    assert list(comparison["values"].values()) == sorted(comparison["values"].values())
    assert comparison["winner"] == comparison["order"][0]
    assert all(path.endswith("checkpoint_000006/pretrained_model") for path in comparison["checkpoints"].values())


def test_only_the_changed_hyperparameter_is_listed(out: Path) -> None:
    assert read(out)["changed"] == {"training.lr": RATES}


def test_the_lead_is_measured_over_the_common_episodes(out: Path) -> None:
    comparison = read(out)
    assert comparison["lead"]["episodes"] == 3
    assert comparison["lead"]["low"] <= comparison["lead"]["mean"] <= comparison["lead"]["high"]
    assert comparison["lead"]["larger_than_spread"] == (comparison["lead"]["low"] > 0)


def test_the_table_is_a_csv_file_best_first(out: Path) -> None:
    with (out / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == read(out)["order"]
    assert {row["name"]: float(row["training.lr"]) for row in rows} == RATES
    assert [float(row["policy.valid_horizon.mae"]) for row in rows] == list(read(out)["values"].values())


@pytest.mark.browser
def test_the_page_shows_the_winner_the_table_and_a_curve_for_each_run(out: Path) -> None:
    check_page(out / "comparison.html")
    winner = read(out)["winner"]
    with visit(out / "comparison.html") as opened:
        page = opened.page
        text = page.inner_text("#verdict")
        assert winner in text
        assert "95 of 100" in text
        assert page.locator("#table tbody tr").count() == 3
        assert page.locator("#table tbody a").first.get_attribute("href") == f"evaluations/{winner}/report.html"
        assert page.locator("#changed tbody tr").count() == 1
        labels = [svg.get_attribute("aria-label") for svg in page.locator("svg[role=img]").all()]
        assert labels == ["Mean error by how far ahead the action lies", "Training loss by step"]
        for chart in page.locator("#curves figure svg").all():
            assert chart.locator("path.line").count() == 3  # one curve for each run


def test_results_are_compared_as_they_are_by_any_number(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [out / "evaluations" / name for name in ("slow", "fast")]
    assert compare(*results, "--out", tmp_path / "two", "--metric", "drift.from_commanded.0.5s.mean") == 0
    comparison = read(tmp_path / "two")
    values = {
        path.name: json.loads((path / "summary.json").read_text())["drift"]["from_commanded"]["0.5s"]["mean"]
        for path in results
    }
    assert comparison["values"] == values
    assert comparison["winner"] == min(values, key=lambda name: values[name])
    assert not (tmp_path / "two" / "evaluations").exists()
    assert comparison["winner"] in capsys.readouterr().out.splitlines()[-1]
    before = (tmp_path / "two" / "comparison.html").read_bytes()
    assert compare(*results, "--out", tmp_path / "two", "--metric", "drift.from_commanded.0.5s.mean") == 0
    assert (tmp_path / "two" / "comparison.html").read_bytes() == before


def test_results_of_two_protocols_have_no_common_winner(
    out: Path, sweep: Sweep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--dataset", sweep.dataset, "--out", tmp_path / "queue", "--protocol", "queue", "--latency-steps", 0]
    assert main([str(word) for word in ["--checkpoint", sweep.runs["fast"], *flags, "--episodes", "all"]]) == 0
    assert compare(out / "evaluations" / "fast", tmp_path / "queue", "--out", tmp_path / "both") == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("differ in protocol")
    assert read(tmp_path / "both")["winner"] is None


def test_labels_are_what_differs_between_the_paths() -> None:
    assert label(
        [Path("/r/a/checkpoint_000020/pretrained_model"), Path("/r/b/checkpoint_000020/pretrained_model")]
    ) == ["a", "b"]
    assert label([Path("/r/a/checkpoint_000010"), Path("/r/a/checkpoint_000020")]) == [
        "checkpoint_000010",
        "checkpoint_000020",
    ]
    assert label([Path("/r"), Path("/r/b")]) == ["r", "b"]
    with pytest.raises(UserError, match="at least two"):
        label([Path("/r/a"), Path("/r/a")])


def test_what_cannot_be_compared_is_refused_in_one_line(out: Path, sweep: Sweep, tmp_path: Path) -> None:
    results = [out / "evaluations" / name for name in ("slow", "fast")]
    with pytest.raises(UserError, match=r"no summary\.json in it; give results, or --dataset"):
        compare(results[0], sweep.runs["fast"], "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"--metric policy\.nonsense: slow has no such number"):
        compare(*results, "--out", tmp_path / "out", "--metric", "policy.nonsense")
    with pytest.raises(UserError, match="which does not belong to an earlier comparison"):
        compare(*results, "--out", results[0])
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "summary.json").write_text('{"format": "stage3_eval", "format_version": 1}')
    with pytest.raises(
        UserError,
        match="not a summary of format version 3, evaluate again into another folder: format_version=1: expected 3",
    ):
        compare(results[0], tmp_path / "old", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()

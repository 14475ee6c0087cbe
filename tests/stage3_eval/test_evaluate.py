"""The whole command on datasets that LeRobot wrote: its files, that it is deterministic, and what it leaves after errors."""

import contextlib
import html
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.act.records import Robot
from common.cli.command import UserError
from common.cli.config import changed
from common.lerobot.dataset import Dataset
from stage3_eval.__main__ import main
from stage3_eval.metrics.table import METADATA_KEY
from stage3_eval.metrics.totals import APPLY
from stage3_eval.report.verdict import BASELINE_WORDS
from tests.browser import check_page, visit
from tests.common.lerobot.foreign import change_cells, change_info
from tests.conftest import GOLDEN, ROOT
from tests.stage3_eval.conftest import CONFIG, WriteCheckpoint

pytestmark = pytest.mark.integration

JOINTS = ["shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"]
FILES = [
    "all_episodes.parquet",
    "episode_000.parquet",
    "episode_001.parquet",
    "report.html",
    "summary.json",
]


def evaluate(checkpoint: Path, dataset: Path, out: Path, *flags: object) -> Path:
    argv = ["--checkpoint", checkpoint, "--dataset", dataset, "--out", out, "--batch-size", 8, "--latency-steps", 2]
    assert main([str(word) for word in (*argv, *flags)]) == 0
    return out


def _words(out: Path, *words: object) -> list[str]:
    return [str(word) for word in (*words, "--out", out)]


class Foreign(NamedTuple):
    """A checkpoint and a dataset of another tool, evaluated with --action-meaning delta and without, and what was printed."""

    checkpoint: Path
    dataset: Path
    with_meaning: Path
    without: Path
    printed: tuple[str, str]


@pytest.fixture(scope="module")
def foreign(act_tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Foreign:
    folder, dataset, printed = tmp_path_factory.mktemp("foreign"), GOLDEN / "dataset_video", []
    for name, flags in (("with_meaning", ["--action-meaning", "delta"]), ("without", [])):
        with contextlib.redirect_stdout(io.StringIO()) as text:
            evaluate(act_tiny, dataset, folder / name, "--device", "cpu", "--latency-steps", 0, *flags)
        printed.append(text.getvalue())
    return Foreign(act_tiny, dataset, folder / "with_meaning", folder / "without", (printed[0], printed[1]))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def read_summary(out: Path) -> dict[str, Any]:
    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is not JSON")

    summary: dict[str, Any] = json.loads((out / "summary.json").read_text(), parse_constant=refuse)
    return summary


@pytest.fixture(scope="module")
def out(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both episodes of the golden image dataset, evaluated once for the tests that only look."""
    return evaluate(
        checkpoint, GOLDEN / "dataset_image", tmp_path_factory.mktemp("evaluation") / "out", "--device", "cpu"
    )


def test_the_files_are_those_documented(out: Path) -> None:
    assert names(out) == FILES


def test_columns_and_types_are_those_documented(out: Path) -> None:
    groups = ("joint_position_", "predicted_action_", "gt_action_", "abs_error_")
    expected = [("episode_index", "int64"), ("frame_index", "int64"), ("timestamp", "float")]
    expected += [(group + joint, "float") for group in groups for joint in JOINTS]
    expected += [("inference_time_s", "double")]
    for name in FILES:
        if name.endswith(".parquet"):
            assert [(field.name, str(field.type)) for field in pq.read_schema(out / name)] == expected


def test_pandas_reads_a_row_per_frame_with_the_recorded_values(out: Path) -> None:
    frames = pd.read_parquet(out / "episode_001.parquet")
    recorded = pd.read_parquet(GOLDEN / "dataset_image" / "data").query("episode_index == 1")
    assert frames["frame_index"].tolist() == list(range(22))
    assert set(frames["episode_index"]) == {1}
    for prefix, key in (("gt_action_", "action"), ("joint_position_", "observation.state")):
        values = frames[[prefix + joint for joint in JOINTS]].to_numpy()
        np.testing.assert_array_equal(values, np.stack(recorded[key].to_list()))
    np.testing.assert_array_equal(frames["timestamp"], recorded["timestamp"])


def test_all_episodes_are_the_episodes_concatenated(out: Path) -> None:
    parts = [pq.read_table(out / name) for name in ("episode_000.parquet", "episode_001.parquet")]
    assert pq.read_table(out / "all_episodes.parquet").equals(pa.concat_tables(parts), check_metadata=True)


def test_only_some_frames_are_timed_on_the_cpu(out: Path) -> None:
    times = pd.read_parquet(out / "episode_000.parquet")["inference_time_s"]
    assert times.notna().to_numpy().nonzero()[0].tolist() == [0, 19]
    latency = read_summary(out)["latency"]
    assert (latency["n"], latency["device"]) == (4, "cpu")
    assert 0 < latency["p50_s"] <= latency["p95_s"] <= latency["p99_s"]
    assert latency["first_call_s"] > 0


def test_every_file_records_its_origin(out: Path) -> None:
    summary = read_summary(out)
    metadata = json.loads(pq.read_schema(out / "episode_000.parquet").metadata[METADATA_KEY])
    for key in ("format_version", "protocol", "checkpoint_sha256", "dataset_fingerprint", "action_meaning", "units"):
        assert metadata[key] == summary[key]
    assert (summary["protocol"], summary["action_meaning"], summary["units"]) == ("open_loop", "delta", "rad")


def test_the_summary_agrees_with_the_parquet_files(out: Path) -> None:
    summary, frames = read_summary(out), pd.read_parquet(out / "all_episodes.parquet")
    errors = frames[[f"abs_error_{joint}" for joint in JOINTS]].to_numpy(np.float64)
    first = summary["policy"]["first_step"]
    assert first["mae"] == pytest.approx(errors.mean(), rel=1e-5)
    assert first["max"] == pytest.approx(errors.max(), rel=1e-5)
    assert [first["per_joint"][joint]["mae"] for joint in JOINTS] == pytest.approx(errors.mean(axis=0), rel=1e-5)
    recorded = frames[[f"gt_action_{joint}" for joint in JOINTS]].to_numpy(np.float64)
    assert summary["baselines"]["zero_action"]["first_step"]["mae"] == pytest.approx(np.abs(recorded).mean())
    assert summary["policy"]["mae_by_step"][0] == pytest.approx(first["mae"])
    assert len(summary["policy"]["mae_by_step"]) == summary["chunk_size"] == 10
    assert (summary["episodes"], summary["frames"], summary["joint_names"]) == ([0, 1], 42, JOINTS)
    weighted = sum(episode["policy"]["first_step"]["mae"] * episode["frames"] for episode in summary["by_episode"]) / 42
    assert weighted == pytest.approx(first["mae"])


def test_the_same_command_writes_the_same_files_apart_from_latencies(
    checkpoint: Path, out: Path, tmp_path: Path
) -> None:
    again = evaluate(checkpoint, GOLDEN / "dataset_image", tmp_path / "out")
    for name in FILES:
        if name.endswith(".parquet"):
            first, second = (pq.read_table(folder / name).drop(["inference_time_s"]) for folder in (out, again))
            assert first.equals(second, check_metadata=True)
    first, second = read_summary(out), read_summary(again)
    del first["latency"], second["latency"]
    assert first == second
    first_page, second_page = ((folder / "report.html").read_text() for folder in (out, again))
    assert without_latency(first_page) == without_latency(second_page)
    assert names(tmp_path) == ["out"]


def without_latency(page: str) -> str:
    page = re.sub(r'<section[^>]* id="latency".*?</section>', "", page, flags=re.DOTALL)
    return re.sub(r"A prediction takes</dt>.*?</dd>", "", page)


def test_a_finished_evaluation_is_reported_again_and_not_changed(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = evaluate(checkpoint, GOLDEN / "dataset_image", tmp_path / "out", "--episodes", 1)
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()}
    first = capsys.readouterr().out
    copy = shutil.copytree(checkpoint, tmp_path / "copy" / "pretrained_model")
    evaluate(copy, GOLDEN / "dataset_image", tmp_path / "out", "--episodes", 1)
    assert capsys.readouterr().out == first
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in out.iterdir()} == before


def test_another_evaluation_is_not_overwritten(checkpoint: Path, act_tiny: Path, tmp_path: Path) -> None:
    out = evaluate(checkpoint, GOLDEN / "dataset_image", tmp_path / "out", "--episodes", 1)
    with pytest.raises(UserError, match="holds another evaluation: its checkpoint_sha256 is"):
        evaluate(act_tiny, GOLDEN / "dataset_image", out, "--episodes", 1, "--action-meaning", "delta")
    with pytest.raises(UserError, match=r"another evaluation: its episodes is \[1\], now it is \[0\]"):
        evaluate(checkpoint, GOLDEN / "dataset_image", out, "--episodes", 0)


def test_the_report_shows_joints_baselines_and_a_verdict(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = evaluate(checkpoint, GOLDEN / "dataset_image", tmp_path / "out", "--episodes", 1)
    lines = capsys.readouterr().out.splitlines()
    assert names(out) == ["episode_001.parquet", "report.html", "summary.json"]
    assert [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in JOINTS] == JOINTS
    summary = read_summary(out)
    ratio, best = summary["ratio_to_best_baseline"]["valid_horizon"], summary["best_baseline"]["valid_horizon"]
    word = "Better than every baseline" if ratio < 1 else "Not better than the best baseline"
    assert lines[-1] == f"{word}: {ratio:.2f} times the error of {BASELINE_WORDS[best]}"


def test_a_checkpoint_and_a_video_dataset_of_lerobot_are_evaluated(foreign: Foreign) -> None:
    summary = read_summary(foreign.with_meaning)
    assert (summary["action_meaning"], summary["units"]) == ("delta", "the dataset's units")
    assert list(summary["baselines"]) == ["zero_action", "repeat_last", "dataset_mean", "linear_extrapolation"]
    assert not {"degrees", "left_out"} & {key for key, value in summary.items() if value is not None}
    assert (summary["latency"]["n"], summary["latency"]["p50_s"]) == (0, None)
    assert names(foreign.with_meaning) == FILES


def test_without_a_declared_meaning_everything_else_is_evaluated_the_same(foreign: Foreign) -> None:
    known, summary = read_summary(foreign.with_meaning), read_summary(foreign.without)
    assert names(foreign.without) == FILES
    assert known.keys() - summary.keys() == {"drift", "robot"}
    assert summary["action_meaning"] is None
    assert list(summary["baselines"]) == ["repeat_last", "dataset_mean"]
    for key in ("policy", "units", "joint_names", "frames", "dataset_fingerprint"):
        assert summary[key] == known[key]
    assert all("drift" not in episode for episode in summary["by_episode"])
    tables = [pd.read_parquet(folder / "all_episodes.parquet") for folder in (foreign.with_meaning, foreign.without)]
    pd.testing.assert_frame_equal(*tables)
    metadata = json.loads(pq.read_schema(foreign.without / "episode_000.parquet").metadata[METADATA_KEY])
    text = summary["left_out"]
    assert metadata["left_out"] == text
    assert "--action-meaning delta" in text
    assert foreign.printed[1].count(text) == 1
    assert "drift of a joint" in foreign.printed[0]
    assert text not in foreign.printed[0]
    assert text[1:] in html.unescape((foreign.without / "report.html").read_text())
    evaluate(foreign.checkpoint, foreign.dataset, foreign.without, "--latency-steps", 0)  # read again, as it is
    with pytest.raises(UserError, match=r"--max-joint-speed 1: neither the dataset .* --action-meaning delta"):
        evaluate(foreign.checkpoint, foreign.dataset, foreign.without, "--max-joint-speed", 1)


@pytest.mark.browser
def test_the_page_without_a_meaning_has_no_drift_and_no_positions(foreign: Foreign) -> None:
    check_page(foreign.without / "report.html")
    with visit(foreign.without / "report.html") as opened:
        page = opened.page
        assert page.locator("details.episode").first.locator("figure svg").count() == 6  # actions alone
        assert page.locator("#robot table").count() == 0
        assert page.locator(".tiles").first.locator("dt").all_inner_texts() == [
            "Mean error of an action",
            "At the first step",
            "A prediction takes",
        ]
        assert "drift" not in page.inner_text("#episodes thead")


def test_with_and_without_a_meaning_have_no_common_winner(
    foreign: Foreign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ["--compare", foreign.with_meaning, foreign.without]
    assert main(_words(tmp_path / "out", *results)) == 0
    assert "No winner: with_meaning and without differ in action meaning" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "out" / "comparison.csv", index_col="name")
    for name, folder in (("with_meaning", foreign.with_meaning), ("without", foreign.without)):
        error = read_summary(folder)["policy"]["valid_horizon"]["mae"]
        assert rows.loc[name, "policy.valid_horizon.mae"] == pytest.approx(error)
    assert np.isnan(rows.loc["without", "drift.from_commanded.1.0s.mean"])
    assert "\N{EN DASH}" in (tmp_path / "out" / "comparison.html").read_text()
    with pytest.raises(UserError, match=r"without has no such number in its summary.json; neither .* --action-meaning"):
        main(_words(tmp_path / "out", *results, "--metric", "drift.from_commanded.0.5s.mean"))


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        (
            "observation.images.color",
            33,
            lambda image: image | {"bytes": image["bytes"][:20]},
            "camera color, episode 1, frame 13",
        ),
        (
            "action",
            25,
            lambda action: [*action[:2], float("nan"), *action[3:]],
            "action is not finite: episode 1, frame 5",
        ),
    ],
)
def test_a_damaged_frame_is_named_and_leaves_nothing(
    column: str, row: int, value: Any, message: str, checkpoint: Path, image_dataset: Path, tmp_path: Path
) -> None:
    change_cells(image_dataset, column, lambda cells: cells.__setitem__(row, value(cells[row])))
    with pytest.raises(UserError, match=message):
        evaluate(checkpoint, image_dataset, tmp_path / "results" / "out")
    assert names(tmp_path / "results" / "out") == []


def test_weights_that_are_not_finite_are_refused(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint()
    weights = load_file(folder / "model.safetensors")
    weights["model.action_head.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"prediction is not finite: episode 0, frame 0; .* evaluate another checkpoint"
    ):
        evaluate(folder, GOLDEN / "dataset_image", tmp_path / "out")


def test_the_queue_is_evaluated_by_what_it_executes(write_checkpoint: WriteCheckpoint, tmp_path: Path) -> None:
    config = changed(CONFIG, n_action_steps=4)
    folder = write_checkpoint(act=config)
    out = evaluate(folder, GOLDEN / "dataset_image", tmp_path / "out", "--protocol", "queue", "--latency-steps", 99)
    summary, frames = read_summary(out), pd.read_parquet(out / "all_episodes.parquet")
    assert (summary["protocol"], summary["n_action_steps"]) == ("queue", 4)
    assert len(summary["policy"]["mae_by_step"]) == 4
    errors = frames[[f"abs_error_{joint}" for joint in JOINTS]].to_numpy(np.float64)
    assert summary["policy"]["valid_horizon"]["mae"] == pytest.approx(errors.mean(), rel=1e-5)
    looked = frames["frame_index"] % 4 == 0
    assert frames["inference_time_s"].notna().equals(looked)  # a queue pop is no inference
    assert summary["latency"]["n"] == looked.sum()
    first = errors[looked.to_numpy()].mean()
    assert summary["policy"]["first_step"]["mae"] == pytest.approx(first, rel=1e-5)
    for key in ("zero_action", "repeat_last"):
        assert len(summary["baselines"][key]["mae_by_step"]) == 4
    assert summary["drift"]["from_measured"]["0.5s"] is None  # a chunk is left after 4 frames
    assert summary["drift"]["from_commanded"]["0.5s"]["mean"] > 0


@pytest.mark.parametrize("meaning", ["next_position", "command"])
def test_ensembling_of_positions_is_evaluated_too(
    meaning: str, write_checkpoint: WriteCheckpoint, tmp_path: Path
) -> None:
    dataset = Dataset.open(GOLDEN / "dataset_image")
    act = changed(CONFIG, n_action_steps=1, temporal_ensemble_coeff=0.01)
    folder = write_checkpoint(act=act, robot=Robot(dataset.joint_names, 30, meaning, False))
    out = evaluate(folder, dataset.root, tmp_path / "out", "--protocol", "queue", "--episodes", 0)
    summary, frames = read_summary(out), pd.read_parquet(out / "episode_000.parquet")
    assert list(summary["baselines"]) == ["hold_still", "repeat_last", "dataset_mean", "linear_extrapolation"]
    states = frames[[f"joint_position_{joint}" for joint in JOINTS]].to_numpy(np.float64)
    recorded = frames[[f"gt_action_{joint}" for joint in JOINTS]].to_numpy(np.float64)
    assert summary["baselines"]["hold_still"]["first_step"]["mae"] == pytest.approx(np.abs(states - recorded).mean())
    predicted = frames[[f"predicted_action_{joint}" for joint in JOINTS]].to_numpy(np.float64)
    drift = summary["drift"]["from_commanded"]["0.5s"]
    assert drift["mean"] == pytest.approx(np.abs(predicted - recorded)[14:].mean(), rel=1e-5)  # positions do not add up
    assert summary["robot"]["apply"] == APPLY[meaning]
    page = (out / "report.html").read_text()
    assert meaning in page
    assert not re.findall(r'd="M[^L"]*"', page)  # a curve of one point would be invisible


def test_at_one_frame_per_second_a_moment_still_has_a_curve(
    image_dataset: Path, write_checkpoint: WriteCheckpoint, tmp_path: Path
) -> None:
    change_info(image_dataset, lambda info: info.update(fps=1))
    folder = write_checkpoint(act=changed(CONFIG, n_action_steps=1))
    out = evaluate(folder, image_dataset, tmp_path / "out", "--protocol", "queue", "--episodes", 0)
    page = (out / "report.html").read_text()
    worst = page[page.index('id="worst"') : page.index('id="episodes"')]
    figures = worst.split("<figure>")[1:]
    assert len(figures) == worst.count('class="moment"') == 6
    assert all(len(re.findall(r'd="M[^"]*L', figure)) == 2 for figure in figures)


def test_the_robots_steps_agree_with_the_parquet_files(checkpoint: Path, tmp_path: Path) -> None:
    speed = [0.1, 100, 100, 100, 100, 100]
    out = evaluate(checkpoint, GOLDEN / "dataset_image", tmp_path / "out", "--max-joint-speed", *speed)
    frames, robot = pd.read_parquet(out / "all_episodes.parquet"), read_summary(out)["robot"]
    steps = np.abs(frames[[f"predicted_action_{joint}" for joint in JOINTS]].to_numpy(np.float64))
    assert list(robot["largest_step"].values()) == pytest.approx(steps.max(axis=0).tolist(), rel=1e-5)
    assert robot["share_over_limit"][JOINTS[0]] == pytest.approx((steps[:, 0] * 30 > 0.1).mean())
    assert robot["share_over_limit"][JOINTS[1]] == 0
    with pytest.raises(UserError, match="2 values for 6 joints"):
        evaluate(checkpoint, GOLDEN / "dataset_image", tmp_path / "other", "--max-joint-speed", 1, 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--checkpoint, --dataset, --out"),
        (["--compare", "a", "b"], "--compare needs --out"),
        (["--checkpoint", "x", "--dataset", "x", "--out", "x", "--max-joint-speed", "0"], "a number above 0"),
        (
            ["--checkpoint", "nowhere", "--dataset", GOLDEN / "dataset_image", "--out", "{tmp}/out"],
            "no checkpoint in nowhere",
        ),
        (["--checkpoint", "x", "--dataset", "x", "--out", ROOT], "which does not belong to an earlier evaluation"),
    ],
)
def test_a_mistake_on_the_command_line_is_refused_and_leaves_nothing(
    flags: list[object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        main([str(flag).replace("{tmp}", str(tmp_path)) for flag in flags])
    assert not (tmp_path / "out").exists()

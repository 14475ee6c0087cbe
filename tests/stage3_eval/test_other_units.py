"""A gripper in 0..255 beside joints in radians: shown as it is, and no part of the overall numbers."""

import contextlib
import html
import io
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from common.lerobot.dataset import Dataset
from stage3_eval.__main__ import main
from stage3_eval.metrics.summary import VALID_HORIZON, ChunkErrors, JointErrors
from stage3_eval.output import read_summary
from stage3_eval.report.verdict import coverage, verdict
from tests.browser import check_page, visit
from tests.common.lerobot.foreign import change_info
from tests.stage1_convert.conversion import convert_one
from tests.stage1_convert.recording import TYPES, RecordedMessage, cell
from tests.stage3_eval.conftest import tiny_checkpoint
from tests.stage3_eval.summaries import make_summary, stats

pytestmark = pytest.mark.integration

JOINTS, FLOAT64 = ["elbow_joint", "wrist_1_joint"], "std_msgs/msg/Float64"
SENTENCE = "The overall error is of the 2 joints; gripper has its own unit and its own row."
SETTINGS = [
    "conventions.joint_order=[elbow_joint, wrist_1_joint]",
    "conventions.action=next_position",
    "data.state_fields={gripper: '/gripper:data'}",
    "conventions.action_fields=[gripper]",
]


class Evaluation(NamedTuple):
    """What was evaluated, the results, and what was printed."""

    checkpoint: Path
    dataset: Path
    out: Path
    printed: str

    @property
    def page(self) -> str:
        return html.unescape((self.out / "report.html").read_text())

    @property
    def summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads((self.out / "summary.json").read_text())
        return summary


@pytest.fixture(scope="module")
def grasp(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Two joints and a gripper that closes from 0 to 255 within a frame, evaluated for real."""
    folder = tmp_path_factory.mktemp("grasp")
    recording = cell(seconds=3)
    for place, said in enumerate(recording.joints):
        opening = TYPES.types[FLOAT64](0.0 if place < len(recording.joints) / 2 else 255.0)
        recording.others.append(RecordedMessage(said.receive_ns, "/gripper", FLOAT64, opening))
    dataset = convert_one(folder, recording, *SETTINGS)
    checkpoint = folder / "checkpoint" / "pretrained_model"
    checkpoint.mkdir(parents=True)
    tiny_checkpoint(Dataset.open(dataset), "next_position").write(checkpoint)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        evaluate(checkpoint, dataset, folder / "evaluation", "--max-joint-speed", 3)
    return Evaluation(checkpoint, dataset, folder / "evaluation", text.getvalue())


def evaluate(checkpoint: Path, dataset: Path, out: Path, *flags: object) -> None:
    argv = ["--checkpoint", checkpoint, "--dataset", dataset, "--out", out, "--device", "cpu", "--latency-steps", 0]
    assert main([str(word) for word in (*argv, *flags)]) == 0


def mean(per_joint: dict[str, Any], key: str) -> float:
    return sum(float(per_joint[joint][key]) for joint in JOINTS) / len(JOINTS)


def test_the_overall_numbers_are_over_the_joints_alone(grasp: Evaluation) -> None:
    summary = grasp.summary
    assert (summary["units"], summary["other_units"]) == ("rad", ["gripper"])
    errors = {"policy": summary["policy"], **summary["baselines"]}
    for found in errors.values():
        for scope in ("first_step", "valid_horizon"):
            overall = found[scope]
            assert overall["mae"] == pytest.approx(mean(overall["per_joint"], "mae"))
            assert overall["max"] == max(overall["per_joint"][joint]["max"] for joint in JOINTS)
            assert overall["rmse"] < 10
        assert found["mae_by_step"][0] == found["first_step"]["mae"]
    assert summary["policy"]["valid_horizon"]["per_joint"]["gripper"]["mae"] > 50
    maes = {name: found["valid_horizon"]["mae"] for name, found in errors.items()}
    best = min(maes.keys() - {"policy"}, key=lambda name: maes[name])
    assert summary["best_baseline"]["valid_horizon"] == best
    assert summary["ratio_to_best_baseline"]["valid_horizon"] == pytest.approx(maes["policy"] / maes[best])
    for times in summary["drift"].values():
        for drift in filter(None, times.values()):
            assert drift["mean"] == pytest.approx(mean(drift["per_joint"], "mean"))
            assert drift["max"] == max(drift["per_joint"][joint]["max"] for joint in JOINTS)
    (episode,) = summary["by_episode"]
    assert episode["policy"]["valid_horizon"]["mae"] == maes["policy"]
    assert episode["drift"]["from_commanded"]["1.0s"]["mean"] == summary["drift"]["from_commanded"]["1.0s"]["mean"]


def test_degrees_and_the_limit_of_speed_are_the_joints_alone(grasp: Evaluation) -> None:
    summary = grasp.summary
    radians, degrees = (tree["policy"]["valid_horizon"]["per_joint"] for tree in (summary, summary["degrees"]))
    assert degrees["gripper"] == radians["gripper"]
    assert degrees["elbow_joint"]["mae"] == pytest.approx(math.degrees(radians["elbow_joint"]["mae"]))
    drifts = (tree["drift"]["from_commanded"]["1.0s"]["per_joint"]["gripper"] for tree in (summary, summary["degrees"]))
    assert len({drift["mean"] for drift in drifts}) == 1
    assert summary["robot"]["speed_limit_per_s"] == dict.fromkeys(JOINTS, 3) | {"gripper": None}
    assert summary["robot"]["share_over_limit"]["gripper"] == 0


def test_the_page_shows_the_gripper_as_it_is(grasp: Evaluation) -> None:
    page, summary = grasp.page, grasp.summary
    assert page.count(SENTENCE) == 1
    rows = [row for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if re.search(r'"row">gripper<', row)]
    assert len(rows) == 2  # of the errors, and of what the robot is commanded
    assert not any("°" in row or "rad" in row for row in rows)
    policy, *baselines = (
        errors["valid_horizon"]["per_joint"]["gripper"]["mae"]
        for errors in (summary["policy"], *summary["baselines"].values())
    )
    assert f"<td>{policy:.3g}</td>" in rows[0]
    assert f"{policy / min(baselines):.2g} \N{MULTIPLICATION SIGN}" in rows[0]
    elbow = next(row for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if "elbow" in row)
    assert elbow.count("°") == 3
    assert "width:100.0%" in elbow  # the longest bar is a joint's
    assert rows[1].count("<td>\N{EN DASH}</td>") == 2  # no limit of speed, and no frames over it
    plots = re.findall(r'<svg role="img" aria-label="gripper: .*?(?=<figure|<svg|</figure>)', page, re.DOTALL)
    assert len(plots) == 2  # actions and positions
    for plot in plots:
        assert ">200</span>" in plot
        assert "°" not in plot
    (values,) = re.findall(r'<script type="application/json">(.*?)</script>', page)
    player = json.loads(values)
    assert player["units"] == ["°", "°", ""]
    recorded = pd.read_parquet(grasp.out / "episode_000.parquet")
    assert player["recorded"][2] == recorded["gt_action_gripper"].tolist()
    np.testing.assert_allclose(player["recorded"][0], np.degrees(recorded["gt_action_elbow_joint"]), atol=0.05)


def test_moments_and_heat_are_those_of_the_joints(grasp: Evaluation) -> None:
    page, largest = grasp.page, math.degrees(grasp.summary["policy"]["valid_horizon"]["max"])
    moments = re.findall(r"Off by ([\d.]+)° on average, most in (\w+) \(([\d.]+)°\)", page)
    assert len(moments) > 2
    assert {joint for _, joint, _ in moments} <= set(JOINTS)
    assert all(float(error) <= float(worst) <= largest * 1.1 for error, _, worst in moments)
    (bright,) = re.findall(r"yellow ([\d.]+)° or more, of gripper ([\d.]+); largest [\d.]+° in (\w+)", page)
    assert 0 < float(bright[0]) <= largest
    assert 50 < float(bright[1]) < 300
    assert bright[2] in JOINTS


def test_the_console_says_what_the_overall_error_is_of(grasp: Evaluation) -> None:
    assert grasp.printed.count(SENTENCE) == 1
    assert coverage(make_summary([1.0])) == ""
    several = make_summary([1.0], joint_names=["a", "b", "c", "d"], other_units=["b", "c", "d"], baselines={})
    assert coverage(several) == (
        "The overall error is of the 1 joint; b, c and d have their own units and their own rows."
    )


@pytest.mark.parametrize(("own", "baseline", "is_told"), [(1.0, 1.0, True), (0.5, 1.0, False), (0.1, 0.0, False)])
def test_a_gripper_that_is_no_better_than_a_baseline_is_named(own: float, baseline: float, is_told: bool) -> None:
    def errors(joint: float, gripper: float) -> ChunkErrors:
        found = JointErrors(**stats(joint).model_dump(), per_joint={"a": stats(joint), "gripper": stats(gripper)})
        return ChunkErrors(first_step=found, valid_horizon=found, mae_by_step=[joint])

    summary = make_summary(
        [0.1],
        joint_names=["a", "gripper"],
        other_units=["gripper"],
        policy=errors(0.1, own),
        baselines={"zero_action": errors(0.9, baseline)},
        best_baseline={VALID_HORIZON: "zero_action"},
        ratio_to_best_baseline={VALID_HORIZON: 0.1 / 0.9},
    )
    found = verdict(summary, VALID_HORIZON)
    text = "Better than every baseline, but not for gripper: " if is_told else "Better than every baseline: "
    assert (found.level, found.answer.startswith(text)) == ("warn" if is_told else "good", True)


@pytest.mark.browser
def test_the_slider_shows_the_gripper_as_it_is(grasp: Evaluation) -> None:
    check_page(grasp.out / "report.html")
    with visit(grasp.out / "report.html") as opened:
        values = opened.page.locator(".value").all_inner_texts()
    assert ["°" in value for value in values] == [True, True, False]


def test_a_comparison_by_the_gripper_is_in_no_degrees(grasp: Evaluation, tmp_path: Path) -> None:
    evaluate(grasp.checkpoint, grasp.dataset, tmp_path / "queue", "--protocol", "queue")
    for metric, sign in (("policy.valid_horizon.per_joint.gripper.mae", ""), ("drift.from_commanded.1.0s.max", "°")):
        out = tmp_path / metric
        words = ["--compare", grasp.out, tmp_path / "queue", "--out", out, "--metric", metric]
        assert main([str(word) for word in words]) == 0
        (row, _) = re.findall(r'<th scope="row"><a .*?</th>\s*<td>([^<]*)<?', (out / "comparison.html").read_text())
        assert re.fullmatch(rf"[\d.]+{sign}\s*", row)


def test_a_dataset_that_does_not_say_is_evaluated_as_before(grasp: Evaluation, tmp_path: Path) -> None:
    """Datasets of earlier versions, and those whose actions have units of their own alone."""
    dataset = shutil.copytree(grasp.dataset, tmp_path / "dataset")
    change_info(dataset, lambda info: info["features"]["action"]["info"].pop("other_units"))
    evaluate(grasp.checkpoint, dataset, tmp_path / "out")
    summary = read_summary(tmp_path / "out")
    assert summary.other_units == []
    assert summary.policy.valid_horizon.mae > 10
    said = [*JOINTS, "gripper"]
    change_info(dataset, lambda info: info["features"]["action"]["info"].update(other_units=said))
    evaluate(grasp.checkpoint, dataset, tmp_path / "all")
    assert read_summary(tmp_path / "all").policy == summary.policy

"""From nothing to a policy that moved the arm: bags, dataset, training, evaluation and closed loop, and one summary.

Runs the commands a user runs on bags of their own, and prints them. The three stages are tasks of the workflow file that a
cluster takes, run on this machine.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.cli import config as configuration
from common.cli.command import Parser, UserError, run
from common.storage.files import read_json, require_ours, write_json
from stage2_train.config import TrainConfig

HERE = Path(__file__).parent
MARK = "demo.json"  # what makes a folder the demo's own, so that nobody else's files are ever removed
TARGETS = 20
WORKFLOW = Path("osmo/convert-train-eval.yaml")
BAGS_URL = (
    "azure://stosmorbt3dev001/datasets/houston_recordings"  # the workflow's default; --map puts a folder in its place
)
TASKS = {"convert": "convert", "train": "train-act", "evaluate": "eval-act"}
DATASET = Path("workflow/convert/output/dataset")
RUN = Path("workflow/train-act/output/train-rosbag-act")
EVALUATION = Path("workflow/eval-act/output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything and print what came of it."""
    parser = Parser("python -m demo", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="folder for everything (default: demo-output)"
    )
    parser.add_argument("--episodes", type=int, default=800, help="episodes to record (default: 800)")
    parser.add_argument(
        "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="changes demo/train.yaml"
    )
    flags = parser.parse_args(argv)
    out: Path = flags.out
    _own(out, flags.episodes)
    started = time.monotonic()
    took_s: dict[str, float] = {}
    _call(took_s, "record", "demo.record", "--out", out / "bags", "--episodes", flags.episodes)
    train = configuration.load(TrainConfig, HERE / "train.yaml", flags.override).training
    values = {
        "bags": "url",
        "results": "none",
        "convert_config": HERE / "convert.yaml",
        "config": HERE / "train.yaml",
        "steps": train.steps,
        "warmup_steps": train.warmup_steps,
        "train_overrides": " ".join(map(shlex.quote, [*_precision(), *flags.override])),
        "eval_episodes": "val",
        "eval_device": "cpu",
    }
    settings = [f"{key}={value}" for key, value in values.items()]
    bags, cache = f"{BAGS_URL}={out / 'bags'}", f"XDG_CACHE_HOME={(out / 'cache').resolve()}"
    where = ("--work", out / "workflow", "--map", bags, "--set-env", cache)
    _call(took_s, "workflow", "osmo.local", "run", WORKFLOW, *where, "--set", *settings)
    checkpoint = out / RUN / f"checkpoint_{train.steps:06d}" / "pretrained_model"
    rollout = ("demo.rollout", "--checkpoint", checkpoint, "--targets", TARGETS)
    _call(took_s, "untrained", *rollout, "--untrained", "--out", out / "rollout-untrained")
    _call(took_s, "rollout", *rollout, "--out", out / "rollout")

    summary = _summary(out, {**took_s, "all": time.monotonic() - started})
    write_json(out / "summary.json", summary)
    print(_describe(out, summary))
    return 0


def _own(out: Path, episodes: int) -> None:
    """Make `out` the demo's folder and clear the last run's results; bags of as many episodes stay as they are."""
    require_ours(out, "demo of ours", sign=MARK)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARK, {"made_by": "python -m demo"})
    truth = out / "bags" / "truth.json"
    stale = ["bags"] if truth.exists() and read_json(truth)["episodes"] != episodes else []
    for name in ("workflow", "rollout", "rollout-untrained", *stale):
        shutil.rmtree(out / name, ignore_errors=True)


def _precision() -> list[str]:
    """Train in bfloat16 where the processor computes in it: elsewhere it is emulated, and slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    known = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return ["training.amp=bf16"] if known & {"amx_bf16", "avx512_bf16"} else []


def _call(took_s: dict[str, float], name: str, module: str, *args: object) -> None:
    words = ["-m", module, *map(str, args)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, *words], check=False)
    took_s[name] = time.monotonic() - started
    if done.returncode:
        raise UserError(f"python -m {module} ended with exit code {done.returncode}; its message is above")


def _summary(out: Path, took_s: dict[str, float]) -> dict[str, Any]:
    tasks = read_json(out / "workflow" / "run.json")["tasks"]
    evaluation = read_json(out / EVALUATION / "summary.json")
    counts = {name: read_json(out / name / "rollouts.json")["successes"] for name in ("rollout", "rollout-untrained")}
    last = json.loads((out / RUN / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "steps": last["step"],
        "step_s": last["step_s"],
        "ratio_to_best_baseline": evaluation["ratio_to_best_baseline"]["valid_horizon"],
        "targets": TARGETS,
        "reached": counts["rollout"],
        "reached_untrained": counts["rollout-untrained"],
        "took_s": {"record": took_s["record"], **{name: tasks[t]["seconds"] for name, t in TASKS.items()}, **took_s},
    }


def _describe(out: Path, summary: dict[str, Any]) -> str:
    took_s, ratio, reached = summary["took_s"], summary["ratio_to_best_baseline"], summary["reached"]
    untrained = summary["reached_untrained"]
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took_s.items() if name not in ("all", "workflow"))
    return f"""
From bags to a policy that moved the arm, in {took_s["all"] / 60:.1f} minutes ({times})

  closed loop   {reached} of {TARGETS} held-out targets reached within 3 cm; untrained: {untrained} of {TARGETS}
  open loop     {ratio:.2f} of the best trivial baseline's error on held-out episodes, over the whole chunk
  aims          at least 16 of 20: {_met(reached >= 16)}; at most 0.50: {_met(ratio <= 0.5)}

Look at
  {out}/rollout/rollout.png            the trained policy drives the arm
  {out}/rollout-untrained/rollout.png  the same network before training
  {out}/{EVALUATION}/report.html           the evaluation: verdict, curves, worst moments
  {out}/{DATASET}/meta/conversion.html   what became of every bag
  {out}/{RUN}/curves.png   loss and learning rate
"""


def _met(aim: bool) -> str:
    return "met" if aim else "NOT met"


if __name__ == "__main__":
    run(main)

"""From nothing to a policy that moved the arm: bags, dataset, training, evaluation and closed loop, and one summary.

Runs the commands a user runs on bags of their own, one process each, and prints them.
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

from common import config as configuration
from common.command import Parser, UserError, run
from common.files import read_json, write_json
from stage2_train.config import TrainConfig

HERE = Path(__file__).parent
MARK = "demo.json"  # what makes a folder the demo's own, so that nobody else's files are ever removed
TARGETS = 20


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
    train = configuration.load(TrainConfig, HERE / "train.yaml", flags.override)
    checkpoint = out / "train" / f"checkpoint_{train.training.steps:06d}" / "pretrained_model"
    overrides = [
        f"data.dataset={out / 'dataset'}",
        f"data.cache_dir={out / 'cache'}",
        f"training.output_dir={out / 'train'}",
        *_precision(),
    ]

    _call(took_s, "record", "demo.record", "--out", out / "bags", "--episodes", flags.episodes)
    _call(took_s, "convert", "stage1_convert", "--src", out / "bags", "--out", out / "dataset")
    _call(took_s, "train", "stage2_train", "--config", HERE / "train.yaml", "--override", *overrides, *flags.override)
    common = ("--checkpoint", checkpoint, "--dataset", out / "dataset")
    _call(took_s, "evaluate", "stage3_eval", *common, "--out", out / "eval", "--episodes", "val")
    rollout = ("demo.rollout", "--checkpoint", checkpoint, "--targets", TARGETS)
    _call(took_s, "untrained", *rollout, "--untrained", "--out", out / "rollout-untrained")
    _call(took_s, "rollout", *rollout, "--out", out / "rollout")

    summary = _summary(out, {**took_s, "all": time.monotonic() - started})
    write_json(out / "summary.json", summary)
    print(_describe(out, summary))
    return 0


def _own(out: Path, episodes: int) -> None:
    """Make `out` the demo's folder and clear the last run's results; bags of as many episodes stay as they are."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise UserError(f"--out {out} holds something else; choose an empty or a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARK, {"made_by": "python -m demo"})
    truth = out / "bags" / "truth.json"
    stale = ["bags"] if truth.exists() and read_json(truth)["episodes"] != episodes else []
    for name in ("train", "eval", "rollout", "rollout-untrained", *stale):
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
    evaluation = read_json(out / "eval" / "summary.json")
    counts = {name: read_json(out / name / "rollouts.json")["successes"] for name in ("rollout", "rollout-untrained")}
    last = json.loads((out / "train" / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "steps": last["step"],
        "step_s": last["step_s"],
        "ratio_to_best_baseline": evaluation["ratio_to_best_baseline"]["valid_horizon"],
        "targets": TARGETS,
        "reached": counts["rollout"],
        "reached_untrained": counts["rollout-untrained"],
        "took_s": took_s,
    }


def _describe(out: Path, summary: dict[str, Any]) -> str:
    took_s, ratio, reached = summary["took_s"], summary["ratio_to_best_baseline"], summary["reached"]
    untrained = summary["reached_untrained"]
    times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took_s.items() if name != "all")
    return f"""
From bags to a policy that moved the arm, in {took_s["all"] / 60:.1f} minutes ({times})

  closed loop   {reached} of {TARGETS} held-out targets reached within 3 cm; untrained: {untrained} of {TARGETS}
  open loop     {ratio:.2f} of the best trivial baseline's error on held-out episodes, over the whole chunk
  aims          at least 16 of 20: {_met(reached >= 16)}; at most 0.50: {_met(ratio <= 0.5)}

Look at
  {out}/rollout/rollout.png            the trained policy drives the arm
  {out}/rollout-untrained/rollout.png  the same network before training
  {out}/eval/curves.png                predicted against recorded joints
  {out}/train/curves.png               loss and learning rate
"""


def _met(aim: bool) -> str:
    return "met" if aim else "NOT met"


if __name__ == "__main__":
    run(main)

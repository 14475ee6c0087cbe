"""Runs the whole project on simulated bags: recording, dataset, training, evaluation and closed loop, and a summary.

It runs and prints the commands that a user runs on bags of their own. The three stages are tasks of the workflow file for
a cluster, run on this machine.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common.cli import config as configuration
from common.cli.command import Parser, UserError, run
from common.storage.files import read_json, require_ours, write_json
from demo.record import TRUTH, is_complete
from demo.scene import CELLS
from stage2_train.config import TrainConfig, TrainingConfig

HERE = Path(__file__).parent
MARK = "demo.json"  # marks an output folder of the demo: no other folder is ever cleared
TARGETS = 20
BY_SEED = (17, 19, 20, 20, 20)  # targets reached by five seeds: see README.md
WORKFLOW = Path("osmo/convert-train-eval.yaml")
BAGS = {"account": "demo", "container": "datasets", "prefix": "bags"}  # a url that --map replaces by a folder
TASKS = {"convert": "convert", "train": "train-act", "evaluate": "eval-act"}
DATASET = Path("workflow/convert/output/dataset")
RECORD = Path("meta/conversion.json")
RUN = Path("workflow/train-act/output/train-rosbag-act")
EVALUATION = Path("workflow/eval-act/output")


def main(argv: Sequence[str] | None = None) -> int:
    """Run everything and print the summary."""
    parser = Parser("python -m demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="output folder (default: %(default)s)")
    parser.add_argument("--episodes", type=int, default=800, help="episodes to record (default: %(default)s)")
    parser.add_argument(
        "--override", action="extend", nargs="+", default=[], metavar="KEY=VALUE", help="change demo/train.yaml"
    )
    parser.add_argument("--cell", choices=CELLS, default="front", help="which simulated cell (default: %(default)s)")
    flags = parser.parse_args(argv)
    if flags.episodes < 2:
        raise UserError(f"--episodes {flags.episodes}: expected at least 2, one of which is held out of the training")
    out: Path = flags.out
    _prepare(out, flags.episodes, flags.cell)
    started = time.monotonic()
    seconds: dict[str, float] = {}
    cell = ("--cell", flags.cell)
    _call(seconds, "record", "demo.record", "--out", out / "bags", "--episodes", flags.episodes, *cell)
    train = configuration.load(TrainConfig, HERE / "train.yaml", flags.override).training
    settings = _workflow_settings(train, flags.override)
    bags, cache = f"azure://{'/'.join(BAGS.values())}={out / 'bags'}", f"XDG_CACHE_HOME={(out / 'cache').resolve()}"
    folders = ("--work", out / "workflow", "--map", bags, "--set-env", cache)
    _call(seconds, "workflow", "osmo.local", "run", WORKFLOW, *folders, "--set", *settings)
    checkpoint = out / RUN / f"checkpoint_{train.steps:06d}" / "pretrained_model"
    rollout = ("demo.rollout", "--checkpoint", checkpoint, "--targets", TARGETS, *cell)
    _call(seconds, "untrained", *rollout, "--untrained", "--out", out / "rollout-untrained")
    _call(seconds, "rollout", *rollout, "--out", out / "rollout")

    summary = _summary(out, {**seconds, "all": time.monotonic() - started})
    write_json(out / "summary.json", summary)
    print(_describe(out, summary))
    return 0


def _workflow_settings(train: TrainingConfig, overrides: Sequence[str]) -> list[str]:
    """Return the values of the workflow, name=value."""
    values = {
        "bags": "url",
        **BAGS,
        "results": "none",
        "convert_config": HERE / "convert.yaml",
        "config": HERE / "train.yaml",
        "steps": train.steps,
        "warmup_steps": train.warmup_steps,
        "train_overrides": " ".join(map(shlex.quote, [*_precision(), *overrides])),
        "eval_episodes": "val",
        "eval_device": "cpu",
    }
    return [f"{key}={value}" for key, value in values.items()]


def _prepare(out: Path, episodes: int, cell: str) -> None:
    """Create the output folder, or clear an earlier run; bags of the same cell and number of episodes are kept."""
    require_ours(out, "demo run", sign=MARK)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARK, {"made_by": "python -m demo"})
    bags = out / "bags"
    recorded = read_json(bags / TRUTH) if (bags / TRUTH).exists() else {}
    is_kept = (recorded.get("episodes"), recorded.get("cell")) == (episodes, cell) and is_complete(bags)
    stale = [] if is_kept else ["bags"]
    for name in ("workflow", "rollout", "rollout-untrained", *stale):
        shutil.rmtree(out / name, ignore_errors=True)


def _precision() -> list[str]:
    """Return an override for bfloat16 where the processor supports it: elsewhere it is emulated, and slower than float32."""
    cpuinfo = Path("/proc/cpuinfo")
    features = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return ["training.amp=bf16"] if features & {"amx_bf16", "avx512_bf16"} else []


def _call(seconds: dict[str, float], name: str, module: str, *args: object) -> None:
    """Print and run a command, and add its duration to `seconds`."""
    words = ["-m", module, *map(str, args)]
    print(f"\n$ python {shlex.join(words)}", flush=True)
    started = time.monotonic()
    done = subprocess.run([sys.executable, *words], check=False)
    seconds[name] = time.monotonic() - started
    if done.returncode:
        raise UserError(f"python -m {module} ended with exit code {done.returncode}; its message is above")


def _summary(out: Path, seconds: dict[str, float]) -> dict[str, Any]:
    tasks = read_json(out / "workflow" / "run.json")["tasks"]
    evaluation = read_json(out / EVALUATION / "summary.json")
    counts = {name: read_json(out / name / "rollouts.json")["successes"] for name in ("rollout", "rollout-untrained")}
    last = json.loads((out / RUN / "metrics.jsonl").read_text().splitlines()[-1])
    stages = {name: tasks[task]["seconds"] for name, task in TASKS.items()}
    images = _count_images(read_json(out / DATASET / RECORD))
    return {
        "steps": last["step"],
        "step_s": last["step_s"],
        "ratio_to_best_baseline": evaluation["ratio_to_best_baseline"]["valid_horizon"],
        "targets": TARGETS,
        "reached": counts["rollout"],
        "images": images,
        "reached_untrained": counts["rollout-untrained"],
        "took_s": {"record": seconds["record"], **stages, **seconds},
    }


def _count_images(record: dict[str, Any]) -> dict[str, int]:
    """Return what the conversion counted, over all episodes and cameras."""
    episodes = [episode for bag in record["bags"] for episode in bag["episodes"]]
    return {
        name: sum(episode[name].get(camera, 0) for episode in episodes for camera in record["cameras"])
        for name in ("repeated", "passed_over", "lost", "unavoidable")
    }


def _describe(out: Path, summary: dict[str, Any]) -> str:
    seconds, ratio, reached = summary["took_s"], summary["ratio_to_best_baseline"], summary["reached"]
    untrained = summary["reached_untrained"]
    images = summary["images"]
    usual = f"{median(BY_SEED)} of {TARGETS}, the median of five seeds ({min(BY_SEED)} to {max(BY_SEED)})"
    times = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items() if name not in ("all", "workflow"))
    return f"""
The demo finished in {seconds["all"] / 60:.1f} minutes ({times}).

  closed loop   {reached} of {TARGETS} held-out targets reached within 3 cm; untrained: {untrained} of {TARGETS}
  expected      {usual}, see demo/README.md
  open loop     {ratio:.2f} times the error of the best baseline on held-out episodes, over the whole chunk
  images        {images["repeated"]} repeated, {images["passed_over"]} passed over; the camera lost {images["lost"]}
  goals         at least 19 of 20 targets: {_met(reached >= 19)}; at most 0.50 times the error: {_met(ratio <= 0.5)}

Results
  {out}/rollout/rollout.mp4              the trained policy drives the arm, beside the untrained one
  {out}/rollout/rollout.png              the same at a glance
  {out}/rollout-untrained/rollout.png    the same network before training
  {out}/{EVALUATION}/report.html         the evaluation: verdict, curves, largest errors
  {out}/{DATASET}/meta/conversion.html   the conversion of every bag
  {out}/{RUN}/curves.png                 loss and learning rate
"""


def _met(goal: bool) -> str:
    return "met" if goal else "NOT met"


if __name__ == "__main__":
    run(main)

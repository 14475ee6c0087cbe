"""`python -m stage3_eval --checkpoint C --dataset D --out O`: how well a policy predicts recorded actions.

`--compare A B C --out O` compares several results, or checkpoints.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli.command import Parser, UserError, run, whole_number
from common.lerobot.keys import parse_renames
from stage3_eval.output import require_evaluation
from stage3_eval.report.console import report

if TYPE_CHECKING:
    from stage3_eval.evaluate import Settings
    from stage3_eval.inputs import Inputs

DEFAULT_METRIC = "policy.valid_horizon.mae"


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint on recorded episodes, or compare several, and print the report."""
    flags = _parser().parse_args(argv)
    if flags.compare:
        return _compare(flags)
    missing = [f"--{name}" for name in ("checkpoint", "dataset", "out") if getattr(flags, name) is None]
    if missing:
        raise UserError(f"command line: these are required: {', '.join(missing)}; see python -m stage3_eval --help")
    out = flags.out.resolve()
    require_evaluation(out)

    from common.report.rrd import require_rerun
    from stage3_eval.evaluate import evaluate  # imports torch, which takes seconds: wrong flags are reported before

    if flags.export:
        from stage3_eval.export import require_exportable

        require_exportable(flags.export)
    if flags.rerun:
        require_rerun()
    inputs = _open(flags, flags.checkpoint)
    print(report(evaluate(inputs, out, _settings(flags))))
    if flags.export:
        from stage3_eval.export import export

        print(export(inputs, flags.export, flags.batch_size))
    return 0


def _parser() -> Parser:
    parser = Parser("python -m stage3_eval", description=__doc__)
    add = parser.add_argument
    add("--checkpoint", type=Path, help="a run, one of its checkpoints or a pretrained_model folder, ours or LeRobot's")
    add("--dataset", type=Path, help="a LeRobot v3.0 dataset")
    add("--out", type=Path, help="folder for the results")
    episodes = "0 1 2 3, 0-3, all, or val (what the training held out); default: $EVAL_EPISODES, else 0-3"
    add("--episodes", nargs="+", metavar="N", help=episodes)
    add("--device", choices=("cpu", "cuda"), help="default: $EVAL_DEVICE, else cuda where there is one")
    protocols = "open_loop (default): a fresh chunk at every frame; queue: one action at a time, as on the robot"
    add("--protocol", choices=("open_loop", "queue"), default="open_loop", help=protocols)
    meaning = "meaning of an action, for a dataset that does not say; never guessed: without it, drift is left out"
    add("--action-meaning", choices=("delta", "next_position", "command"), help=meaning)
    renames = "LeRobot's names of the dataset's features, such as state=observation.state; default: as in the training"
    add("--rename", nargs="*", metavar="OLD=NEW", help=renames)
    add("--batch-size", type=whole_number(1), default=32, metavar="N", help="frames predicted at once (32)")
    timed = "predictions timed per episode (all on cuda, 50 on cpu)"
    add("--latency-steps", type=whole_number(0), metavar="N", help=timed)
    speed = "joint speed in rad/s, one or one per joint: count the frames above it"
    add("--max-joint-speed", type=_positive, nargs="+", metavar="RAD_S", help=speed)
    attention = "show the input attribution of the N worst moments (0)"
    add("--attention", type=whole_number(0), default=0, metavar="N", help=attention)
    add("--rerun", type=Path, metavar="FILE.rrd", help="write the evaluated episodes for the viewer of Rerun")
    add("--export", type=Path, metavar="DIR", help="write the policy as ONNX, verified on the evaluated episodes")
    compared = "results, or (with --dataset) runs and checkpoints, to compare"
    add("--compare", type=Path, nargs="+", metavar="A", help=compared)
    add("--metric", default=DEFAULT_METRIC, help=f"dotted path of a number in summary.json ({DEFAULT_METRIC})")
    return parser


def _compare(flags: argparse.Namespace) -> int:
    if flags.out is None:
        raise UserError("command line: --compare needs --out; see python -m stage3_eval --help")

    from stage3_eval.compare.compare import compare

    def evaluate_checkpoint(path: Path, folder: Path) -> None:
        from stage3_eval.evaluate import evaluate

        evaluate(_open(flags, path), folder, _settings(flags))

    print(compare(flags.compare, flags.out.resolve(), flags.metric, evaluate_checkpoint if flags.dataset else None))
    return 0


def _settings(flags: argparse.Namespace) -> "Settings":
    from stage3_eval.evaluate import Settings

    speed = flags.max_joint_speed
    return Settings(flags.protocol, flags.batch_size, flags.latency_steps, speed, flags.attention, flags.rerun)


def _open(flags: argparse.Namespace, checkpoint: Path) -> "Inputs":
    from stage3_eval.inputs import open_inputs

    rename = None if flags.rename is None else parse_renames(flags.rename)
    return open_inputs(checkpoint, flags.dataset, flags.episodes, flags.device, flags.action_meaning, rename)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


if __name__ == "__main__":
    run(main)

"""`python -m stage3_eval --checkpoint DIR --dataset DIR --out DIR`: how well a policy predicts recorded actions."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from common.command import Parser, run
from stage3_eval.output import require_ours
from stage3_eval.report import report


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate a checkpoint on recorded episodes and print the report."""
    parser = Parser("stage3_eval", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a pretrained_model folder, ours or LeRobot's")
    parser.add_argument("--dataset", type=Path, required=True, help="a LeRobot v3.0 dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results; an earlier one is replaced")
    parser.add_argument(
        "--episodes",
        nargs="+",
        metavar="N",
        help="0 1 2 3, 0-3, all, or val (what the training held out); default: $EVAL_EPISODES, else 0-3",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: $EVAL_DEVICE, else cuda where there is one")
    parser.add_argument("--batch-size", type=_count(1), default=32, metavar="N", help="frames predicted at once (32)")
    parser.add_argument(
        "--latency-steps", type=_count(0), metavar="N", help="frames timed per episode (all on cuda, 50 on cpu)"
    )
    flags = parser.parse_args(argv)

    out = flags.out.resolve()
    require_ours(out)

    from stage3_eval.evaluate import evaluate  # importing torch takes seconds, a mistake in the flags should not
    from stage3_eval.inputs import open_inputs

    inputs = open_inputs(flags.checkpoint, flags.dataset, flags.episodes, flags.device)
    print(report(evaluate(inputs, out, flags.batch_size, flags.latency_steps)))
    return 0


def _count(low: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number from {low} on, got {text!r}")
        return int(text)

    return parse


if __name__ == "__main__":
    run(main)

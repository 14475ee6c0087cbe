"""`torchrun -m stage2_train --config cfg.yaml`: a dataset in, checkpoints out; without torchrun it is one process."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from common import config as configuration
from common.command import Parser, run
from stage2_train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration and train."""
    parser = Parser("stage2_train", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--config", type=Path, help="YAML file with the sections data, model, training, wandb")
    parser.add_argument(
        "--override", action="append", nargs="+", default=[], metavar="KEY=VALUE", help="e.g. training.lr=5e-5; repeats"
    )
    flags = parser.parse_args(argv)
    overrides = [item for group in flags.override for item in group]
    config = configuration.load(TrainConfig, flags.config, overrides)

    from stage2_train.train import train  # importing torch takes seconds, a mistake in the config should not

    train(config)
    return 0


if __name__ == "__main__":
    run(main)

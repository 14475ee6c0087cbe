"""`torchrun -m stage2_train --config cfg.yaml`: a dataset in, checkpoints out; without torchrun it is one process."""

from collections.abc import Sequence

from common import config as configuration
from common.command import Parser, add_config_flags, run
from stage2_train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration and train."""
    parser = Parser("python -m stage2_train", description=__doc__)
    add_config_flags(parser, "data, model, training, wandb")
    flags = parser.parse_args(argv)
    config = configuration.load(TrainConfig, flags.config, flags.override)

    from stage2_train.train import train  # importing torch takes seconds, a mistake in the config should not

    train(config)
    return 0


if __name__ == "__main__":
    run(main)

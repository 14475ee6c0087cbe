"""`torchrun -m stage2_train --config cfg.yaml`: a dataset in, checkpoints out; without torchrun it is one process."""

from collections.abc import Sequence
from pathlib import Path

from common.cli import config as configuration
from common.cli.command import Parser, add_config_flags, run
from stage2_train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Read the configuration and train, or look at what a training would do, or after the cache."""
    parser = Parser("python -m stage2_train", description=__doc__)
    add_config_flags(parser, "data, model, augment, training, wandb")
    parser.add_argument("--dry-run", action="store_true", help="show what a training would be; nothing is written")
    parser.add_argument("--cache", choices=["list", "clear"], help="list or remove decoded images (data.cache_dir)")
    flags = parser.parse_args(argv)
    config = configuration.load(TrainConfig, flags.config, flags.override)
    if flags.cache:
        return cache(config, flags.cache)

    # Importing torch takes seconds, a mistake in the config should not.
    import torch

    from stage2_train.checkpoints.finetune import adopt
    from stage2_train.preview import preview
    from stage2_train.train import train

    # Momenta of units that have died halve every seven steps: after some 800 they are denormal, and a CPU takes a fifth
    # longer for every step. Threads inherit the setting from the one that starts them, so it comes before the first work.
    torch.set_flush_denormal(True)
    try:
        config = adopt(config)
        if flags.dry_run:
            preview(config)
        else:
            train(config)
    finally:
        torch.set_flush_denormal(False)
    return 0


def cache(config: TrainConfig, what: str) -> int:
    """List or remove the decoded images and copied columns in data.cache_dir."""
    from common.lerobot.frame_cache import clear_cache, default_cache_dir, list_cache

    folder = Path(config.data.cache_dir) if config.data.cache_dir else default_cache_dir()
    for line in list_cache(folder) or [f"nothing is cached in {folder}"]:
        print(line)
    if what == "clear":
        clear_cache(folder)
        print("removed")
    return 0


if __name__ == "__main__":
    run(main)

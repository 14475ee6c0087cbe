"""`torchrun -m stage2_train --config cfg.yaml`: trains a policy on a dataset; without torchrun in a single process."""

from collections.abc import Sequence

from common.cli.command import Parser, add_config_flags, run
from common.cli.config import load
from stage2_train.config import TrainConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or show what a training would do, or list or clear the frame cache."""
    parser = Parser("python -m stage2_train", description=__doc__)
    add_config_flags(parser, "data, model, augment, training, wandb")
    parser.add_argument("--dry-run", action="store_true", help="show what a training would do; nothing is written")
    parser.add_argument("--cache", choices=["list", "clear"], help="list or remove decoded images (data.cache_dir)")
    flags = parser.parse_args(argv)
    config = load(TrainConfig, flags.config, flags.override)

    # Imported here because torch takes seconds, and a mistake in the configuration is to be reported at once.
    import torch

    from stage2_train.checkpoints.fine_tuning import with_base_settings
    from stage2_train.dry_run import dry_run, show_cache
    from stage2_train.train import train

    if flags.cache:
        show_cache(config, clear=flags.cache == "clear")
        return 0
    # Momenta of dead units halve every seven steps. After some 800 they are denormal, and a step on a CPU takes a fifth
    # longer. Threads inherit the setting from the one that starts them, so it comes before the first computation.
    torch.set_flush_denormal(True)
    try:
        config = with_base_settings(config)
        dry_run(config) if flags.dry_run else train(config)
    finally:
        torch.set_flush_denormal(False)
    return 0


if __name__ == "__main__":
    run(main)

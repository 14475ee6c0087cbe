"""What the promises are tried with serves here, too: the warm process, small disks, the undisturbed run."""

from tests.reliability.conftest import dataset, ram, small_disk, warm, whole

__all__ = ["dataset", "ram", "small_disk", "warm", "whole"]

"""Fixtures shared with the reliability tests: the warm process, small disks, the tiny dataset and its complete run."""

from tests.reliability.conftest import dataset, samples, small_disk, warm, whole

__all__ = ["dataset", "samples", "small_disk", "warm", "whole"]

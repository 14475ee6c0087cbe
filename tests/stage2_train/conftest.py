"""The warm process and the undisturbed run that the promises are tried with serve here, too."""

from tests.promises.conftest import dataset, ram, warm, whole

__all__ = ["dataset", "ram", "warm", "whole"]

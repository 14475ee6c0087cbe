"""The warm process that the promises are tried with serves here, too."""

from tests.promises.conftest import ram, warm

__all__ = ["ram", "warm"]

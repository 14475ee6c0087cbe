"""One blob service for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests import azurite


@pytest.fixture(scope="session")
def service() -> Iterator[azurite.Azurite]:
    """A running Azurite."""
    with azurite.running() as running:
        yield running

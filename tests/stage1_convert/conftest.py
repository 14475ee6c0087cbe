"""Fixtures of tests that bring bags from a blob service."""

from tests.azurite.transfer import impatient, service

__all__ = ["impatient", "service"]

"""Finished runs of the command line, to read."""

from tests.plait.cli.conftest import original, small

__all__ = ["original", "small"]

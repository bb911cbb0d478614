"""A whole run over gRPC as `tests/vectors/whole` has it: plait's server says the same again, byte for byte."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "vectors"

pytestmark = pytest.mark.slow


def test_a_run_is_recorded_with_the_same_bytes():
    writer = runpy.run_path(str(FOLDER / "write_run.py"))
    assert writer["text_of"](writer["recorded"]()) == (FOLDER / "whole" / "minimal.json").read_text()

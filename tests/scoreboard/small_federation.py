"""The federation of the unit tests: real coordinator, participants and messages; a model of a few numbers.

Knows nothing of the attacks.
"""

import importlib.util
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

TESTS = Path(__file__).resolve().parents[1]


@cache
def borrowed(path: str) -> ModuleType:
    """A module of the tests by its path below `tests/`; conftest files cannot be imported by name."""
    name = f"scoreboard_{path.replace('/', '_').removesuffix('.py')}"
    spec = importlib.util.spec_from_file_location(name, TESTS / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


of_numbers = borrowed("plait/rounds/conftest.py")
FakeModel = of_numbers.FakeModel
Federation = of_numbers.Federation

HONEST: Mapping[str, object] = {
    "alice": FakeModel(1.0, 3),
    "bob": FakeModel(4.0, 7),
    "carol": FakeModel(-1.0, 5),
    "dave": FakeModel(2.0, 2),
}


@contextmanager
def no_waiting_for_the_disk() -> Generator[None]:
    """Without fsync: a row that kills no process cannot tell it from with fsync, but for the time."""
    fsync, os.fsync = os.fsync, lambda _descriptor: None
    try:
        yield
    finally:
        os.fsync = fsync

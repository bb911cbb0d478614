"""A user's own part: made if it is a class; what it raises becomes one line that says where in it the error arose."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from plait.errors import ConfigError, PartError, PlaitError, machine_fault


def instance_of(part: object, *, what: str) -> object:
    """A part that is a class, made without arguments; any other part as it is.

    Raises:
        ConfigError: the class needs arguments.
    """
    if not inspect.isclass(part):
        return part
    try:
        return part()
    except TypeError as error:
        raise ConfigError(f"{what} has fields without a default: {error}") from error


@contextmanager
def located_errors(what: str, *, quoting: bool = True) -> Generator[None]:
    """Turns what a user's own code raises into one line that says where it arose.

    Args:
        what: the beginning of the line, such as ``rule 'mine' failed``.
        quoting: whether the line has the error's message; false where that may quote training data.

    Raises:
        PartError: the code raised anything but a `PlaitError`.
        MachineError: it found this machine's memory or disk full.
    """
    try:
        yield
    except PlaitError:
        raise
    except Exception as error:
        if fault := machine_fault(error):
            raise fault from error
        said = f"{type(error).__name__}: {error}" if quoting else type(error).__name__
        raise PartError(f"{what}: {said}{place_of(error)}") from error


def place_of(error: BaseException) -> str:
    """File and line in a user's own code where an error arose, as the end of a message; empty if unknown."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen", ours)) and Path(frame.filename).parent.name != "importlib"
    ]
    if not frames:
        return ""
    folder = str(Path(frames[0].filename).parent)
    last = next(frame for frame in reversed(frames) if frame.filename.startswith(folder))
    return f" ({last.filename}, line {last.lineno})"

"""A user's own part: made if it is a class; what it raises becomes one line that says where in it the error arose.

A contract check is a claim about a part, and how the claim fares. The checks of each kind stand beside it
(`plait.aggregation.contract` …). plait's own parts pass them in its tests, and a user's own in `plait check-plugin`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

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


Part = TypeVar("Part")


class BrokenError(PlaitError):
    """A claim does not hold; the message says what was found."""


class NotClaimedError(PlaitError):
    """The part does not claim this; the message says why."""


@dataclass(frozen=True)
class Check(Generic[Part]):
    """One claim.

    Attributes:
        claim: in a few words, true where the check passes.
        run: raises `BrokenError` where it does not hold and `NotClaimedError` where nothing is claimed; may return a
            remark.
    """

    claim: str
    run: Callable[[Part], str | None]


@dataclass(frozen=True)
class Verdict:
    """How a claim fares.

    Attributes:
        holds: whether it holds; None where the part does not claim it.
        detail: what was found, or why nothing is claimed; may be empty.
    """

    claim: str
    holds: bool | None
    detail: str = ""


def checked(part: Part, checks: Sequence[Check[Part]]) -> Iterator[Verdict]:
    """Each claim about a part, and how it fares; an error of the part's own is a broken claim."""
    for check in checks:
        try:
            yield Verdict(check.claim, True, check.run(part) or "")
        except NotClaimedError as why:
            yield Verdict(check.claim, None, str(why))
        except Exception as error:
            said = str(error) if isinstance(error, PlaitError) else f"{type(error).__name__}: {error}"
            yield Verdict(check.claim, False, said)

"""What a contract check is: a claim about a part, and how the claim fares.

The checks of each kind stand beside it (`plait.aggregation.contract` …). plait's own parts pass them in its tests, and
a user's own in `plait check-plugin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from plait.errors import PlaitError

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

"""What corrects clients' local steps for their drift from each other: SCAFFOLD, FedDyn or FedProx (`--correction`).

Knows names and options alone; `drift` and `feddyn` have what the first two do, `plait.training.proximal` the third.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from plait.choice import parse_choice, with_options
from plait.errors import ConfigError, did_you_mean
from plait.traits import NOTHING, Reasons, Trait

NONE = "none"
"""The default: no correction."""
_CARRIED: Reasons = {
    Trait.WAITS: "it counts on equal parts of all clients in a round",
    Trait.EQUAL_STEPS: "it compares the movement of whole rounds",
    Trait.SAME_FACTORS: "clients carry a direction over from the round before",
    Trait.SAME_SIDES: "clients carry a direction over from the round before",
}
_DRAWN: Reasons = {Trait.OWN_STEPS: "this correction draws them elsewhere"}


@dataclass(frozen=True)
class Scaffold:
    """Each step adds the difference between all clients' and this client's movement in the round before."""

    needs: ClassVar[Reasons] = {**_CARRIED, Trait.MEAN_STEP: "clients measure their drift from it"}
    takes: ClassVar[Reasons] = _DRAWN


@dataclass(frozen=True)
class FedDyn:
    """A regulariser that brings clients' optima to the global one."""

    needs: ClassVar[Reasons] = _CARRIED
    takes: ClassVar[Reasons] = _DRAWN
    optimizer: ClassVar[str] = "feddyn"
    """The server optimizer that does the server's part."""

    alpha: Annotated[float, Field(gt=0, le=1e6, description="strength of the regulariser")] = 0.1


@dataclass(frozen=True)
class FedProx:
    """A pull towards the round's initial adapter."""

    needs: ClassVar[Reasons] = NOTHING
    takes: ClassVar[Reasons] = NOTHING

    mu: Annotated[float, Field(gt=0, le=1e6, description="strength of the pull")] = 0.01


Correction = Scaffold | FedDyn | FedProx
CORRECTIONS: Mapping[str, Correction] = {"feddyn": FedDyn(), "fedprox": FedProx(), "scaffold": Scaffold()}
"""By name, in alphabetical order."""


def correction_named(text: str) -> Correction | None:
    """The correction that `--correction` names, with its options; None for none.

    Raises:
        ConfigError: there is none of this name, or an option is wrong.
    """
    name, options = parse_choice(text)
    if name == NONE and not options:
        return None
    if name not in CORRECTIONS:
        known = (NONE, *CORRECTIONS)
        raise ConfigError(f"correction is '{name}', expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return with_options(CORRECTIONS[name], options, what=f"correction '{name}'")

"""What the parts of a run need of it, what they take away, and the check that nothing taken away is needed.

A run has every trait below until one of its parts removes it: a setting, a rule, a method or an optimizer. Each
states beside its own code what it needs and removes, so a new part is checked against parts that it does not know.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from plait.errors import ConfigError
from plait.system.text import escaped


class Trait(StrEnum):
    """What a run has unless a part removes it; the value is what follows "needs that" in messages."""

    # Rounds, and who takes part in them.
    WAITS = "a round waits for its cohort"
    EQUAL_STEPS = "all clients take equally many steps"
    LOCAL_STEPS = "local-steps sets how long a client trains"
    RELEASED = "a client at work can be released"
    # What the server learns.
    SINGLE_UPDATES = "the server may look at single updates"
    FIGURES = "the server may use losses, counts and times of single clients"
    LOSSES = "clients report losses on data that they hold out, if only as a sum"
    VOUCHED = "an authority vouches for the keys of clients"
    # How updates are combined.
    LINEAR = "the sum of all updates is enough for the rule"
    SAME_FACTORS = "a round goes on with the factors of the one before"
    SAME_SIDES = "the same factors are trained in every round"
    # The adapter and its base.
    ONE_RANK = "all clients have the rank of the server"
    ALL_SHARED = "all of the adapter is shared"
    FACTORS = "the adapter has factors A and B"
    SQUARES = "the adapter has square matrices between fixed factors"
    # What clients learn, and how.
    LANGUAGE = "the model writes text"
    SAMPLES = "the model samples completions just as it learns them"
    OWN_LOSS = "clients minimise plait's own loss"
    SLOPES = "each step measures the slope of the loss"
    WHOLE_GRADIENT = "a step's gradient is clipped as a whole"


Reasons = Mapping[Trait, str]
"""Traits, each with the reason why it is needed or gone; the reason for a need may be empty."""
NOTHING: Reasons = MappingProxyType({})
_MOST_NAMED = 6


@dataclass(frozen=True)
class Stated:
    """What one part of a run needs and removes; `key` is that of its setting."""

    key: str
    value: object
    needs: Reasons = field(default_factory=dict[Trait, str])
    """Traits that the run must have; a reason stands in brackets behind the trait."""
    removes: Reasons = field(default_factory=dict[Trait, str])
    """Traits that the run no longer has; a reason follows "but"."""
    instead: str = ""
    """What the user may ask for in its place."""
    others: "Callable[[], Iterable[Stated]]" = tuple
    """The parts that could stand in its place, for a message that names those that would do."""

    def __str__(self) -> str:
        """The part as messages have it: key and value."""
        shown = str(self.value).lower() if isinstance(self.value, bool) else repr(self.value)
        return f"{self.key} is {shown}"


def check(stated: Sequence[Stated]) -> None:
    """Refuse (ConfigError) parts of which one removes what another needs; a part may remove what it needs itself."""
    for one in stated:
        for other in stated:
            if (trait := clash(one, other)) is not None:
                raise ConfigError(escaped(_refusal(one, other, trait, stated)))


def clash(one: Stated, other: Stated) -> Trait | None:
    """The first trait that a part needs and another removes; None if there is none."""
    if one.key == other.key:
        return None
    return next((trait for trait in one.needs if trait in other.removes), None)


def taken(stated: Iterable[Stated]) -> frozenset[Trait]:
    """The traits that a run of these parts no longer has."""
    return frozenset(trait for each in stated for trait in each.removes)


def _refusal(one: Stated, other: Stated, trait: Trait, stated: Sequence[Stated]) -> str:
    why = f" ({one.needs[trait]})" if one.needs[trait] else ""
    instead = " or ".join(_instead(part, stated) for part in (one, other))
    return f"{one} and {other}, expected {instead}: {one.key} needs that {trait}{why}, but {other.removes[trait]}"


def _instead(part: Stated, stated: Sequence[Stated]) -> str:
    rest = [each for each in stated if each.key != part.key]
    fitting = [
        str(other.value)
        for other in part.others()
        if not any(clash(other, each) or clash(each, other) for each in rest)
    ]
    if fitting:
        more = ["…"] if len(fitting) > _MOST_NAMED else []
        return f"{part.key} {', '.join(fitting[:_MOST_NAMED] + more)}"
    return part.instead or f"another {part.key}"

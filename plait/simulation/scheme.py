"""Partition schemes: a table of values, one per scheme, and the text in which users write them.

The schemes are those of flwr-datasets, under the names that its users know. Knows no records.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from plait.data import Dataset, RecordKind
from plait.errors import ConfigError
from plait.plugins import Kind
from plait.settings.choice import function_named, parse_choice

DEFAULT_ALPHA = 0.5
_MAX_ALPHA = 1e6  # far beyond it a Dirichlet draw overflows
MIN_RECORDS = 2
"""A client with fewer records cannot both train and hold one out."""
# The last word of a column's name, where each value probably is an organisation, person or device with data of its own.
_OWNERS = frozenset({
    "account", "author", "bank", "branch", "center", "centre", "client", "clinic", "company", "customer",
    "department", "device", "firm", "hospital", "household", "institute", "institution", "lab", "office",
    "operator", "organisation", "organization", "owner", "participant", "patient", "practice", "school", "sensor",
    "shop", "site", "speaker", "store", "team", "tenant", "university", "user", "ward", "writer",
})  # fmt: skip

Argument: TypeAlias = "str | float | int | None"


@dataclass(frozen=True)
class SchemeKind:
    """A way to partition."""

    name: str
    form: str
    """Its name with its argument, as the user writes them."""
    read: Callable[[str], Argument] | None = None
    """Its argument from text, or ValueError with what was expected; None for a scheme without one."""
    by_label: bool = False
    """Whether records are sorted by label before they are cut into shares."""
    split: Callable[..., object] | None = None
    """A user's own function of (dataset, clients, seed): the record indices of each client."""
    counts_classes: bool = False
    """Whether its argument is a number of classes."""
    # Why it may be impossible, and what to change.
    fails: str = "cannot split {count}, expected more records in each class, or fewer clients"


@dataclass(frozen=True)
class Scheme:
    """A partition scheme with its argument; ``str(scheme)`` is the form that `parse_partition` reads."""

    kind: SchemeKind
    argument: Argument = None

    @property
    def column(self) -> str:
        """The column of `natural`; empty for any other scheme."""
        return self.argument if self.kind.name == "natural" and isinstance(self.argument, str) else ""

    def __str__(self) -> str:
        if self.argument is None:
            return self.kind.name
        argument = str(self.argument)
        return f"{self.kind.name}:{argument.removesuffix('.0') if isinstance(self.argument, float) else argument}"


def _column(text: str) -> str:
    if not text:
        raise ValueError("the name of a column")
    return text


def _alpha(text: str) -> float:
    try:
        alpha = float(text or DEFAULT_ALPHA)
    except ValueError:
        alpha = math.nan
    if not (0 < alpha <= _MAX_ALPHA):
        raise ValueError(f"a number above 0, at most {_MAX_ALPHA:.0f}")
    return alpha


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ValueError("a whole number above 0")
    return int(text)


_SKEW_FAILS = f"splits {{count}} and some get under {MIN_RECORDS}, expected a larger alpha or fewer clients"
_SIZE_FAILS = "splits {count} and 'client-00' gets none, expected more records or fewer clients"

SCHEMES: Mapping[str, SchemeKind] = {
    kind.name: kind
    for kind in (
        # Equal shares, at random.
        SchemeKind("iid", "iid"),
        # One client for each value of a column.
        SchemeKind("natural", "natural:COLUMN", _column),
        # Label skew: each class is shared out by a draw from Dirichlet(alpha); the lower alpha, the stronger the skew.
        SchemeKind("dirichlet", "dirichlet:ALPHA", _alpha, True, fails=_SKEW_FAILS),
        # Each client has this number of classes.
        SchemeKind("pathological", "pathological:CLASSES", _count, True, counts_classes=True),
        # Records sorted by label are cut into shards, and each client gets some (McMahan et al., arXiv 1602.05629).
        SchemeKind("shard", "shard:SHARDS", _count, True),
        # Quantity skew: client k gets a share proportional to k, to k squared, to e to the k.
        SchemeKind("linear", "linear", fails=_SIZE_FAILS),
        SchemeKind("square", "square", fails=_SIZE_FAILS),
        SchemeKind("exponential", "exponential", fails=_SIZE_FAILS),
    )
}


def parse_partition(text: str) -> Scheme:
    """Read a scheme as the user writes it: ``iid``, ``natural:COLUMN``, ``my_parts:by_length``…; else ConfigError."""
    given, _, argument = (part.strip() for part in text.partition(":"))
    kind = SCHEMES.get(given.lower())
    if kind is None:
        return _own(text)
    if kind.read is None:
        if argument:
            raise ConfigError(f"partition is '{text}', but {kind.name} takes no argument")
        return Scheme(kind)
    try:
        return Scheme(kind, kind.read(argument))
    except ValueError as error:
        raise ConfigError(f"partition is '{text}', expected {error}: {kind.form}") from error


def _own(text: str) -> Scheme:
    """A user's own scheme: a function of (dataset, clients, seed)."""
    name, options = parse_choice(text)
    split = function_named(Kind.PARTITION, text, ("dataset", "clients", "seed"), known=SCHEMES)
    given = ",".join(f"{key}={value}" for key, value in options.items())
    return Scheme(SchemeKind(name, name, split=split), given or None)


def default_scheme(dataset: Dataset) -> Scheme:
    """The default scheme of a dataset: its natural column, else label skew, else IID."""
    if dataset.natural_column:
        return Scheme(SCHEMES["natural"], dataset.natural_column)
    return parse_partition("dirichlet" if dataset.kind is RecordKind.LABEL else "iid")


def likely_clients(dataset: Dataset, scheme: Scheme) -> str:
    """A column that `scheme` does not use, whose name and values suggest that each value is a client; empty if none.

    Every record has a value, and two values or more have two records each on average.
    """
    for name in dataset.column_names:
        words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
        owners = [word for word in words if word not in ("id", "name")]
        if name == scheme.column or not owners or owners[-1].removesuffix("s") not in _OWNERS:
            continue
        values = dataset.column(name)
        if None not in values and 2 <= len(set(values)) <= len(values) // 2:
            return name
    return ""

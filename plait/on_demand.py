"""Parts by name, of which only those that are asked for are imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from plait.places import at

T = TypeVar("T")


class OnDemand(Mapping[str, T], Generic[T]):
    """A table of parts.

    Args:
        places: where each part is, ``module:NAME``, by the part's name.
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = places

    def __getitem__(self, name: str) -> T:
        return cast("T", at(self.places[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.places

    def __or__(self, others: OnDemand[T]) -> OnDemand[T]:
        """Both tables as one, in the order of names."""
        return OnDemand(dict(sorted({**self.places, **others.places}.items())))

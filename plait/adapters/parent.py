"""An adapter that another one was derived from: its digest and its weight."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plait.adapters.spec import Json
from plait.errors import PeerError

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 256


@dataclass(frozen=True)
class Parent:
    """One of the adapters that a run started from.

    Attributes:
        digest: SHA-256 of its safetensors file, hexadecimal.
    """

    digest: str
    weight: float = 1.0

    def to_json(self) -> dict[str, Json]:
        """For ledgers and for an adapter's own metadata."""
        return {"digest": self.digest, "weight": self.weight}


def parents_from(value: Json) -> tuple[Parent, ...]:
    """The inverse of `Parent.to_json` for several parents; none for None.

    Raises:
        PeerError: the value has another form.
    """
    if value is None:
        return ()
    rows: Sequence[Json] = value if isinstance(value, list) else [None]
    if len(rows) > _MOST:
        raise PeerError(f"parents of the adapter are {len(rows)}, expected at most {_MOST}")
    return tuple(_parent(row) for row in rows)


def _parent(row: Json) -> Parent:
    fields: Mapping[str, Json] = row if isinstance(row, dict) else {}
    digest, weight = fields.get("digest"), fields.get("weight")
    sound = isinstance(digest, str) and _DIGEST.fullmatch(digest)
    if not sound or not isinstance(weight, (int, float)) or isinstance(weight, bool) or not math.isfinite(weight):
        raise PeerError("a parent of the adapter has no digest and weight as plait writes them")
    return Parent(str(digest), float(weight))

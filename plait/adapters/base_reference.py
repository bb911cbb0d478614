"""Which base an adapter belongs to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class BaseReference:
    """A base by the name that people use and by the fingerprint that machines compare.

    Attributes:
        name: hub id or directory.
        revision: commit or tag on the hub, where it is known.
        fingerprint: `fingerprint_base` of it, 64 hexadecimal digits.
    """

    name: str
    revision: str | None
    fingerprint: str

    def __post_init__(self) -> None:
        if not is_fingerprint(self.fingerprint):
            raise ValueError(f"fingerprint of '{self.name}' is {self.fingerprint!r}, expected 64 hexadecimal digits")

    @property
    def hub_id(self) -> str | None:
        """The name, if it reads as ``owner/model`` and no path here; any other name means nothing elsewhere."""
        return self.name if _HUB_ID.fullmatch(self.name) and not Path(self.name).exists() else None


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form of a fingerprint."""
    return _FINGERPRINT.fullmatch(text) is not None

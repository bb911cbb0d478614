"""Reference to the base that an adapter belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Origin:
    """Public names of a base that comes with plait.

    Attributes:
        hub_id: on the Hugging Face hub; None if it is not there.
        ollama: in Ollama's library; None if it is not there.
        remark: how plait's copy differs, in one sentence; empty if it does not.
    """

    hub_id: str | None = None
    ollama: str | None = None
    remark: str = ""


# By the names of built-in bases.
ORIGINS: Mapping[str, Origin] = {
    "smollm2-135m": Origin(
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        ollama="smollm2:135m-instruct-fp16",
        remark="Trained on a copy of this base whose weights had been quantised to 4 bits; losses on the original "
        "weights differ slightly.",
    ),
    "minilm-l6": Origin(hub_id="sentence-transformers/all-MiniLM-L6-v2"),
    "tiny": Origin(),
}


@dataclass(frozen=True)
class BaseReference:
    """A base, by a name for people and a fingerprint for machines.

    Attributes:
        name: hub id or directory; for a built-in base its hub id, or plait's name for it if the hub does not have it.
        revision: commit or tag on the hub, if known.
        fingerprint: result of `fingerprint_base`, 64 hexadecimal digits.
        built_in: plait's name for a base that comes with it.
    """

    name: str
    revision: str | None
    fingerprint: str
    built_in: str | None = None

    @classmethod
    def of_built_in(cls, built_in: str, fingerprint: str) -> BaseReference:
        """A base that comes with plait, under its public name."""
        return cls(ORIGINS[built_in].hub_id or built_in, None, fingerprint, built_in)

    def __post_init__(self) -> None:
        if not is_fingerprint(self.fingerprint):
            raise ValueError(f"fingerprint of '{self.name}' is {self.fingerprint!r}, expected 64 hexadecimal digits")

    @property
    def here(self) -> str:
        """The name to pass to `locate_base`."""
        return self.built_in or (f"{self.name}@{self.revision}" if self.revision else self.name)

    @property
    def origin(self) -> Origin:
        """Its public names, if plait knows more than one."""
        return ORIGINS.get(self.built_in or "", Origin())

    @property
    def hub_id(self) -> str | None:
        """The name if it has the form ``owner/model`` and is not a path here; other names mean nothing elsewhere."""
        return self.name if _HUB_ID.fullmatch(self.name) and not Path(self.name).exists() else None


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form of a fingerprint."""
    return _FINGERPRINT.fullmatch(text) is not None

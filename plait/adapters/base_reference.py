"""Which base an adapter belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Origin:
    """Where others find a base that comes with plait.

    Attributes:
        hub_id: on the Hugging Face hub; None where it is nowhere else.
        ollama: in Ollama's library; None where it is not there.
        remark: how the copy that comes with plait differs, one sentence; empty where it does not.
    """

    hub_id: str | None = None
    ollama: str | None = None
    remark: str = ""


# By the names that built-in bases have here.
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
    """A base by the name that people use and by the fingerprint that machines compare.

    Attributes:
        name: hub id or directory; of a built-in base its hub id, or its name here where the hub has it not.
        revision: commit or tag on the hub, where it is known.
        fingerprint: `fingerprint_base` of it, 64 hexadecimal digits.
        built_in: the name that plait itself knows it by, where it comes with plait.
    """

    name: str
    revision: str | None
    fingerprint: str
    built_in: str | None = None

    @classmethod
    def of_built_in(cls, built_in: str, fingerprint: str) -> BaseReference:
        """A base that comes with plait, under the name by which others find it."""
        return cls(ORIGINS[built_in].hub_id or built_in, None, fingerprint, built_in)

    def __post_init__(self) -> None:
        if not is_fingerprint(self.fingerprint):
            raise ValueError(f"fingerprint of '{self.name}' is {self.fingerprint!r}, expected 64 hexadecimal digits")

    @property
    def here(self) -> str:
        """What `locate_base` finds it by."""
        return self.built_in or self.name

    @property
    def origin(self) -> Origin:
        """Where others find it, as far as plait knows more than the name."""
        return ORIGINS.get(self.built_in or "", Origin())

    @property
    def hub_id(self) -> str | None:
        """The name, if it reads as ``owner/model`` and no path here; any other name means nothing elsewhere."""
        return self.name if _HUB_ID.fullmatch(self.name) and not Path(self.name).exists() else None


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form of a fingerprint."""
    return _FINGERPRINT.fullmatch(text) is not None

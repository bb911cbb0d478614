"""What an adapter is of: its spec, the adapters that it was derived from, and its base.

A layout follows from base and configuration, so under a kilobyte is enough for a peer to build the same adapter.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

from plait.adapters.state import Layout
from plait.errors import PeerError
from plait.system.text import Json

# Keys of adapter_config.json that name a place or a mode of one machine, not the adapter itself.
PLACE_KEYS = frozenset({"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"})
UNBUILT = Layout.of({})
"""Of a spec whose base is not known."""
BOTTLENECK_TYPE = "BOTTLENECK"
"""Of bottleneck adapters in PEFT's files; plait registers it with PEFT."""


class AdapterTask(StrEnum):
    """What the base does with the adapter."""

    CAUSAL_LM = "causal-lm"
    CLASSIFICATION = "classification"


@dataclass(frozen=True)
class AdapterSpec:
    """Method, configuration, task and layout of one adapter, and the seed of its initial values.

    Attributes:
        method: the user's name for it, such as ``lora``.
        peft_config: PEFT's configuration as JSON (``r``, ``lora_alpha``, ``target_modules`` …).
        labels: names of the classes, in index order; empty for a language model.
        init_seed: both ends derive the same initial adapter from it, so it need not be sent.
        init_rank: the rank at which the initial adapter is drawn and from which it is cut to `rank`: the server's if
            clients have lower ones, so that all start with the same rows; 0 for the adapter's own.
    """

    method: str
    peft_config: Mapping[str, Json]
    task: AdapterTask
    labels: tuple[str, ...]
    layout: Layout
    init_seed: int
    init_rank: int = 0

    @property
    def rank(self) -> int | None:
        """Rank r of the low-rank factors, if the method has one."""
        value = self.peft_config.get("r")
        return value if isinstance(value, int) else None

    @property
    def is_bottleneck(self) -> bool:
        """Whether it is made of bottlenecks."""
        return self.peft_config.get("peft_type") == BOTTLENECK_TYPE

    @property
    def saved_modules(self) -> tuple[str, ...]:
        """Modules that it holds whole, as PEFT names them: a classifier's head."""
        names = self.peft_config.get("modules_to_save")
        return tuple(str(name) for name in names) if isinstance(names, list) else ()

    @property
    def alpha(self) -> float | None:
        """LoRA's alpha: the scaling factor of B A is alpha / rank (LoRA, arXiv 2106.09685, section 4.1)."""
        value = self.peft_config.get("lora_alpha")
        return float(value) if isinstance(value, (int, float)) else None

    def to_json(self) -> dict[str, Json]:
        """Everything but the layout, which the receiver derives from its own base and checks by `digest`."""
        return {
            "method": self.method,
            "peft_config": {k: v for k, v in sorted(self.peft_config.items()) if k not in PLACE_KEYS},
            "task": self.task.value,
            "labels": list(self.labels),
            "init_seed": self.init_seed,
            **({"init_rank": self.init_rank} if self.init_rank else {}),
        }

    @cached_property
    def text(self) -> str:
        """`to_json()` as the text that is sent."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) over `text` and the layout's digest; equal on every machine with the same base."""
        return hashlib.sha256(self.text.encode() + self.layout.digest).digest()


@dataclass(frozen=True)
class Parent:
    """One of the adapters that a run started from, by the SHA-256 of its safetensors file, hexadecimal."""

    digest: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]
    weight: Annotated[float, Field(strict=True, allow_inf_nan=False)] = 1.0

    def to_json(self) -> dict[str, Json]:
        """For ledgers and for an adapter's own metadata."""
        return {"digest": self.digest, "weight": self.weight}


def parents_from(value: Json) -> tuple[Parent, ...]:
    """The inverse of `Parent.to_json` for several parents, from anybody (PeerError); none for None."""
    try:
        return () if value is None else _PARENTS.validate_python(value)
    except ValidationError as error:
        raise PeerError("parents of the adapter are no list of digests and weights as plait writes them") from error


_PARENTS = TypeAdapter(Annotated[tuple[Parent, ...], Field(max_length=256)])


_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
ORIGIN_FILE = "origin.txt"
"""In the directory of a converted GGUF file: the hub id of the model that it was made of, where it states one."""
HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


@dataclass(frozen=True)
class Origin:
    """Public names of a base that comes with plait, and how its copy differs, in one sentence."""

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
    """

    name: str
    revision: str | None
    fingerprint: str
    built_in: str | None = None

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
        return self.name if HUB_ID.fullmatch(self.name) and not Path(self.name).exists() else None

    def known_to_others(self) -> Self:
        """A converted GGUF file goes by the hub id of the model that it was made of, if it states one."""
        try:
            stated = Path(self.name, ORIGIN_FILE).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return self
        return replace(self, name=stated) if HUB_ID.fullmatch(stated) else self


def is_fingerprint(text: str) -> bool:
    """Whether `text` has the form of a fingerprint."""
    return _FINGERPRINT.fullmatch(text) is not None

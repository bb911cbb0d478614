"""An adapter without its values: method, PEFT configuration, task and layout.

The layout is derived from base and configuration, so a spec of under a kilobyte is enough for a peer to build the same
adapter. Knows no PEFT class: `peft_config` is the JSON that PEFT writes to ``adapter_config.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias

from plait.adapters.layout import Layout

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

# Keys of adapter_config.json that name a place or a mode of one machine, not the adapter itself.
PLACE_KEYS = frozenset({"base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"})


class Task(StrEnum):
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
    task: Task
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

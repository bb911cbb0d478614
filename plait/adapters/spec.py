"""What an adapter is, apart from its values: the method, PEFT's configuration of it, the task and the layout.

The layout is derived (base + configuration), so a spec of under a kilobyte tells a peer all it needs to build the same
adapter. Knows no PEFT class: `peft_config` is the JSON that PEFT itself writes to ``adapter_config.json``.
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
    """What the base does with the adapter on top."""

    CAUSAL_LM = "causal-lm"
    CLASSIFICATION = "classification"


@dataclass(frozen=True)
class AdapterSpec:
    """Method, configuration, task and layout of one adapter, and the seed its initial values come from.

    Attributes:
        method: the name that the user gives, ``lora``.
        peft_config: PEFT's configuration as JSON (``r``, ``lora_alpha``, ``target_modules`` …).
        task: causal language model or classification.
        labels: names of the classes, in index order; empty for a language model.
        layout: tensor names and shapes.
        init_seed: both ends derive the same initial adapter from it, so that it need not travel.
        init_rank: the rank that the initial adapter is drawn at, and then cut to `rank`: that of the server where
            clients have lower ones, so that all begin with the same rows; 0 for the adapter's own.
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
        """Rank r of the low-rank factors, where the method has one."""
        value = self.peft_config.get("r")
        return value if isinstance(value, int) else None

    @property
    def alpha(self) -> float | None:
        """LoRA's alpha: the product B A counts alpha / rank times (LoRA, arXiv 2106.09685, section 4.1)."""
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
        """`to_json()` as the one text that travels."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 (32 bytes) over `text` and the layout's digest; equal on every machine with the same base."""
        return hashlib.sha256(self.text.encode() + self.layout.digest).digest()

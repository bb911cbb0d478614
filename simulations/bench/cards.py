"""Which base fits which machine, and at which length: the table of the guide, by `plait.training.memory_plan` alone.

Nothing here was measured on the machines that it names. Knows no model beyond the configs that come with plait.
"""

from __future__ import annotations

from dataclasses import dataclass

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.training.bases import locate_config, quiet_libraries
from plait.training.blueprint import design, read_base_config
from plait.training.device import CONTEXT_BYTES
from plait.training.memory_plan import ModelSize, longest_that_fits, size_of

_GIB = 1 << 30
_MOST = 1 << 17
RANK = 16
BASES = ("smollm2-135m", "qwen2.5-0.5b", "llama-3.2-1b", "llama-3.2-3b", "mistral-7b", "llama-3.1-8b")


@dataclass(frozen=True)
class Card:
    """A machine.

    Attributes:
        name: as its maker sells it.
        memory_bytes: that training may take, after what the system and CUDA take.
        four_bits: whether bitsandbytes has kernels for it.
        host_has_room: whether the host has memory besides.
    """

    name: str
    memory_bytes: int
    four_bits: bool = True
    host_has_room: bool = False


def _gpu(gib: int) -> Card:
    return Card(f"{gib} GB GPU", gib * _GIB - CONTEXT_BYTES, host_has_room=True)


def _board(name: str, gib: int) -> Card:
    """A board whose system and GPU share memory; 2 GB are left to the system."""
    return Card(name, gib * _GIB - CONTEXT_BYTES - 2_000_000_000)


def _apple(gib: int) -> Card:
    """A Mac, of whose memory Metal recommends about two thirds up to 36 GB, and three quarters beyond."""
    return Card(f"M-series, {gib} GB", int(gib * _GIB * (2 / 3 if gib <= 36 else 3 / 4)), four_bits=False)


CARDS = (
    *map(_gpu, (8, 12, 16, 24)),
    _board("Orin Nano, 8 GB", 8),
    _board("AGX Orin, 64 GB", 64),
    _board("AGX Thor, 128 GB", 128),
    *map(_apple, (16, 36, 64)),
)


def table() -> str:
    """The longest sequence, in tokens, that each machine trains at a batch of one, as Markdown."""
    bases = {base: _Base.of(base) for base in BASES}
    lines = [f"| | {' | '.join(BASES)} |", f"|---|{'---:|' * len(BASES)}"]
    for card in CARDS:
        cells = [_cell(card, base) for base in bases.values()]
        lines.append(f"| {card.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Base:
    sizes: dict[bool, ModelSize]  # by whether it is in four bits
    longest: int  # sequence that it was made for

    @classmethod
    def of(cls, name: str) -> _Base:
        quiet_libraries()
        config = read_base_config(locate_config(name), Task.CAUSAL_LM)
        found: dict[bool, ModelSize] = {}
        for method in ("lora", "qlora"):
            spec = design(config, AdapterRequest(method=method, rank=RANK), task=Task.CAUSAL_LM, seed=0).spec
            size = size_of(config, spec, value_bytes=2)
            if size is None:
                raise ValueError(f"memory of base '{name}' cannot be predicted")
            found[method == "qlora"] = size
        window = getattr(config, "sliding_window", None) or _MOST
        return cls(found, min(_MOST, window, config.max_position_embeddings))


def _cell(card: Card, base: _Base) -> str:
    def longest(*, four_bits: bool) -> int:
        return longest_that_fits(
            base.sizes[four_bits],
            budgets=[card.memory_bytes],
            most=base.longest,
            host_has_room=card.host_has_room,
        )

    whole = longest(four_bits=False)
    four = longest(four_bits=True) if card.four_bits else 0
    return " / ".join((f"{whole:,}" if whole else "no", *([f"**{four:,}**"] if four > whole else [])))

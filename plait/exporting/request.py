"""The common inputs and outputs of export targets, and the card of an export. Knows no format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from plait.adapters.peft import escaped, fact_rows, front_matter, page
from plait.data import Progress
from plait.exporting.source import Source


@dataclass(frozen=True)
class ExportRequest:
    """A request to export into `directory`, which commands name; options as for `plait.export`."""

    source: Source
    directory: Path
    rank: int | None = None
    served_base: str = ""
    gguf_type: str = "f32"


@dataclass(frozen=True)
class Command:
    """A command for the shell, and its purpose."""

    purpose: str
    text: str


@dataclass(frozen=True)
class Written:
    """The result of an export: what to do with it, the rank if all modules have the same, and `Source.lost`."""

    commands: tuple[Command, ...]
    rank: int | None = None
    lost: float = 0.0


Writer: TypeAlias = Callable[[Path], Written]
"""Writes into an empty directory."""
Prepare: TypeAlias = Callable[[ExportRequest, Progress], Writer]
"""A target, which makes all checks that can refuse (ConfigError, BaseMismatchError) before there is a directory."""


@dataclass(frozen=True)
class CardStyle:
    """What a target's cards have in common: the hub's words for library and relation to the base, and a sentence."""

    library: str
    relation: str
    what: str


def export_card(source: Source, style: CardStyle, *, language: str, usage: str) -> str:
    """The card of exported weights; `language` is that of `usage`, ``python`` or ``sh``."""
    spec, base = source.spec, source.base
    rows = fact_rows(spec, base, source.facts, source.parents, client=source.client, digest=source.digest)
    how = "Trained by federated fine-tuning with plait: every client kept its data and sent only changes."
    lead = f"{style.what} {how}"
    cut = f"Cut to rank {spec.rank}: {source.lost:.2%} of the norm of the weight change was lost."
    remarks = [*filter(None, [base.origin.remark]), *([cut] if source.lost else ())]
    front = front_matter(spec, base, library=style.library, relation=style.relation)
    return page(front, escaped(source.name), lead, rows, remarks=remarks, language=language, usage=usage)

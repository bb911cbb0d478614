"""What every target of an export takes and gives. Knows no format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from plait.export.source import Source
from plait.training.bases import Progress


class Float(StrEnum):
    """Type of the numbers in a GGUF file."""

    F32 = "f32"
    F16 = "f16"


@dataclass(frozen=True)
class ExportRequest:
    """What is asked for.

    Attributes:
        source: the adapter.
        directory: where it will lie in the end; commands name it.
        rank: of every module, or None to leave ranks to the target.
        served_base: what the serving program calls the base, or empty for the base's own name.
        gguf_float: type of the numbers in a GGUF file.
    """

    source: Source
    directory: Path
    rank: int | None = None
    served_base: str = ""
    gguf_float: Float = Float.F32


@dataclass(frozen=True)
class Command:
    """Something to paste into a shell, and what it does."""

    purpose: str
    text: str


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        commands: how to use it.
        rank: of every module, where all have the same.
        lost: share of the norm of the change that a lower rank could not hold; 0 where nothing was cut.
    """

    commands: tuple[Command, ...]
    rank: int | None = None
    lost: float = 0.0


# Writes into an empty directory. All that can be refused has been refused before there is one.
Writer: TypeAlias = Callable[[Path], Written]
Prepare: TypeAlias = Callable[[ExportRequest, Progress], Writer]

"""The common inputs and outputs of export targets. Knows no format."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from plait.exporting.source import Source
from plait.training.bases import Progress


class Float(StrEnum):
    """Data type in a GGUF file."""

    F32 = "f32"
    F16 = "f16"


@dataclass(frozen=True)
class ExportRequest:
    """A request to export.

    Attributes:
        directory: the final directory; commands name it.
        rank: of every module, or None to leave ranks to the target.
        served_base: the serving program's name of the base, or empty for the base's own name.
        gguf_float: data type in a GGUF file.
    """

    source: Source
    directory: Path
    rank: int | None = None
    served_base: str = ""
    gguf_float: Float = Float.F32


@dataclass(frozen=True)
class Command:
    """A command for the shell, and its purpose."""

    purpose: str
    text: str


@dataclass(frozen=True)
class Written:
    """The result of an export.

    Attributes:
        rank: of every module, if all have the same.
        lost: fraction of the norm of the weight change that a lower rank could not hold; 0 if nothing was cut.
    """

    commands: tuple[Command, ...]
    rank: int | None = None
    lost: float = 0.0


# Writes into an empty directory. All checks that can refuse come before there is one.
Writer: TypeAlias = Callable[[Path], Written]
Prepare: TypeAlias = Callable[[ExportRequest, Progress], Writer]

"""Export an adapter to one target: check what the target requires, then write to a temporary directory and rename."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plait.errors import ConfigError, MachineError, did_you_mean
from plait.exporting.request import ExportRequest, Prepare, Written
from plait.files import directory_written_aside
from plait.places import OnDemand
from plait.training.bases import Progress

TARGETS: OnDemand[Prepare] = OnDemand(
    {
        "gguf": "plait.features.exports.gguf_adapter:prepare_gguf",
        "merged": "plait.features.exports.merged:prepare_merged",
        "ollama": "plait.features.exports.ollama:prepare_ollama",
        "peft": "plait.exporting.peft:prepare_peft",
        "vllm": "plait.features.exports.vllm:prepare_vllm",
    }
)


@dataclass(frozen=True)
class Exported:
    """An export on disk.

    Attributes:
        files: bytes by name, relative to the directory.
    """

    directory: Path
    files: Mapping[str, int]
    written: Written


def check_target(name: str, directory: Path) -> Prepare:
    """The target called `name`, if `directory` is free for it.

    Raises:
        ConfigError: there is no such target, or the directory is not empty.
    """
    if name not in TARGETS:
        raise ConfigError(f"--to is '{name}', expected one of {', '.join(TARGETS)}{did_you_mean(name, TARGETS)}")
    try:
        if directory.is_dir() and next(directory.iterdir(), None) is not None:
            raise ConfigError(f"'{directory}' is not empty, expected a new or an empty directory")
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"'{directory}' is a file, expected a new or an empty directory")
    except OSError as error:
        raise MachineError(f"cannot read '{directory}': {error.strerror or error}") from error
    return TARGETS[name]


def export(name: str, request: ExportRequest, *, progress: Progress = lambda _: None) -> Exported:
    """Write the adapter of `request` for the target called `name`.

    Raises:
        ConfigError: the target would reject it, or the directory is not empty.
        BaseMismatchError: the adapter does not fit its base.
        MachineError: the base is not available, or the disk is full; nothing is left behind.
    """
    prepare = check_target(name, request.directory)
    write = prepare(request, progress)
    try:
        request.directory.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make '{request.directory.parent}': {error.strerror or error}") from error
    with directory_written_aside(request.directory) as folder:
        written = write(folder)
    files = {
        path.relative_to(request.directory).as_posix(): path.stat().st_size
        for path in sorted(request.directory.rglob("*"))
        if path.is_file()
    }
    return Exported(request.directory, files, written)

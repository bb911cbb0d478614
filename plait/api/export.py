"""An adapter for the program that will serve it: what `plait export` and `plait.export` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from plait.adapters import BaseReference
from plait.api import TURN
from plait.api.settings import base_name
from plait.data import Progress
from plait.errors import ConfigError, did_you_mean
from plait.exporting.gguf_adapter import prepare_gguf, prepare_ollama
from plait.exporting.merged import prepare_merged
from plait.exporting.peft import prepare_peft, prepare_vllm
from plait.exporting.request import Command, ExportRequest, Prepare
from plait.exporting.source import is_node_state, open_node, open_personal, open_source
from plait.report.terminal import say, status
from plait.system.files import directory_written_aside, failures_to
from plait.system.text import Json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TARGETS: Mapping[str, Prepare] = {
    "gguf": prepare_gguf,
    "merged": prepare_merged,
    "ollama": prepare_ollama,
    "peft": prepare_peft,
    "vllm": prepare_vllm,
}


@dataclass(frozen=True)
class Export:
    """An export on disk.

    It stands for its directory wherever a path is expected (``os.fspath``).

    Attributes:
        target: the format or program it is for.
        directory: that holds it, absolute.
        files: bytes by name, relative to the directory.
        adapter: the adapter's name.
        base: that the adapter was trained on: its ``name`` and ``fingerprint``.
        rank: of every module, if all have the same.
        lost: fraction of the weight change's norm that a lower rank lost; 0 if nothing was cut.
        commands: how to use it, each with a ``purpose`` and a ``text`` for the shell.
        hub: address of the repository that it was uploaded to; empty if it was not.
    """

    target: str
    directory: Path
    files: Mapping[str, int]
    adapter: str
    base: BaseReference
    rank: int | None
    lost: float
    commands: tuple[Command, ...]
    hub: str = ""

    def __fspath__(self) -> str:
        return str(self.directory)

    @property
    def figures(self) -> Mapping[str, Json]:
        """What ``plait export --json`` prints."""
        return {
            "target": self.target,
            "directory": str(self.directory),
            "files": dict(self.files),
            "rank": self.rank,
            "lost": self.lost,
            "base": {"name": self.base.name, "fingerprint": self.base.fingerprint},
            "commands": {command.purpose: command.text for command in self.commands},
            "hub": self.hub or None,
        }


def export(
    source: str | PathLike[str],
    directory: str | PathLike[str],
    *,
    to: Literal["peft", "merged", "gguf", "vllm", "ollama"],
    rank: int | None = None,
    base: str | PathLike[str] | PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    served_base: str = "",
    client: str = "",
    gguf_type: Literal["f32", "f16"] = "f32",
    push_to_hub: str = "",
    public: bool = False,
    quiet: bool = False,
) -> Export:
    """Convert an adapter for the program that will serve it.

    Args:
        source: a run or its directory, a PEFT directory, or a node's state directory of a run.
        directory: new or empty, to write to.
        to: the target format or program; ``vllm`` is SGLang's too.
        rank: give every module this rank, by the best approximation or by padding.
        base: if the adapter names none that is available: a name, a directory, or a model in memory.
        tokenizer: of a base in memory.
        served_base: name of the base in vLLM or Ollama, if it differs.
        client: export this client's personalized adapter.
        gguf_type: data type in a GGUF file.
        push_to_hub: also upload the export, with its card, to this repository, ``OWNER/NAME``.
        public: whether a repository that `push_to_hub` makes is public.
        quiet: whether to show no progress.

    Raises:
        ConfigError: an argument is not valid, there is no such adapter, or the target would reject it; the message
            names the nearest one that works.
        BaseMismatchError: `base` is another base than the one that the adapter was trained on.
        PeerError: the adapter to export is not valid.
        MachineError: the disk is full, or the hub cannot be reached; nothing half-written is left behind.
    """
    _check_values(rank, gguf_type)
    upload = _upload_to(push_to_hub, public=public)
    place = Path(directory)
    check_target(to, place)
    progress = partial(say, quiet=quiet)
    path, named = Path(source), fspath(base_name(base, tokenizer) or "")
    with TURN:
        if client:
            adapter = open_personal(path, client, base=named, progress=progress)
        else:
            adapter = (open_node if is_node_state(path) else open_source)(path, base=named, progress=progress)
        request = ExportRequest(adapter, place.resolve(), rank, served_base, gguf_type)
        with status(f"exporting {adapter.name} to {to}", quiet=quiet) as shown:
            exported = write_export(to, request, progress=shown)
    if not upload:
        return exported
    with status(f"uploading to {push_to_hub}", quiet=quiet):
        return replace(exported, hub=upload(exported))


def _check_values(rank: int | None, gguf_type: str) -> None:
    if gguf_type not in (types := ["f32", "f16"]):
        expected = " or ".join(types) + did_you_mean(gguf_type, types)
        raise ConfigError(f"--gguf-type is '{gguf_type}', expected {expected}")
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank is {rank}, expected at least 1")


def _upload_to(repository: str, *, public: bool) -> Callable[[Export], str] | None:
    """What uploads an export to a repository of this name, and gives its address; None for no name."""
    if not repository:
        if public:
            raise ConfigError("--public is given without --push-to-hub; give both or neither")
        return None
    from plait.exporting import hub  # brings a client of HTTP along

    hub.check_repository(repository)
    return lambda made: hub.push_to_hub(made.directory, repository, files=made.files, private=not public)


def check_target(name: str, directory: Path) -> Prepare:
    """The target called `name`, if `directory` is free for it; ConfigError otherwise."""
    if name not in TARGETS:
        raise ConfigError(f"--to is '{name}', expected one of {', '.join(TARGETS)}{did_you_mean(name, TARGETS)}")
    with failures_to(f"read '{directory}'"):
        if directory.is_dir() and next(directory.iterdir(), None) is not None:
            raise ConfigError(f"'{directory}' is not empty, expected a new or an empty directory")
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"'{directory}' is a file, expected a new or an empty directory")
    return TARGETS[name]


def write_export(name: str, request: ExportRequest, *, progress: Progress = lambda _: None) -> Export:
    """Write the adapter of `request` for the target called `name`: into a temporary directory, then renamed."""
    write, directory = check_target(name, request.directory)(request, progress), request.directory
    with failures_to(f"make '{directory.parent}'"):
        directory.parent.mkdir(parents=True, exist_ok=True)
    with directory_written_aside(directory, exported=True) as folder:
        written = write(folder)
    files = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    source = request.source
    return Export(name, directory, files, source.name, source.base, written.rank, written.lost, written.commands)

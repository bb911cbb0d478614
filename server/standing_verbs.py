"""An operator's side of a standing server: ``submit``, ``runs``, ``cancel`` and ``fetch``.

What a server answers came over a network: nothing in it is trusted.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, TypeVar, cast

import grpc
import typer

from plait.cli.output import print_json, print_tables, print_text
from plait.config import Scalar, config_from_table
from plait.errors import ConfigError, PeerError, PlaitError
from plait.report.table import Table
from plait.settings.table import read_config_table
from plait.system.address import Address
from plait.system.files import directory_written_aside
from plait.system.text import Json, printable
from plait.transport.credentials import open_channel
from plait.transport.status import json_object, unanswered
from plait.trust.kit import StaffKit
from plait.v1 import federation_pb2 as pb
from plait.v1.federation_pb2_grpc import OperationsStub

_CALL_S = 30.0
_FETCH_S = 24 * 3600.0
_MOST_FILES = 256
_OF_A_RUN = ("config.toml", "ledger.jsonl", "summary.json", "report.html", "*.png")
_OF_AN_ADAPTER = ("*.json", "*.safetensors", "*.md")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_MOST_SHOWN = 200  # characters of a server's word that a terminal shows
_HEADINGS = ("run", "state", "priority", "base", "method", "rule", "detail")
Result = TypeVar("Result")

_Server = Annotated[str, typer.Option("--server", help="Address and port of the server.")]
_Kit = Annotated[Path | None, typer.Option("--kit", help="An operator's kit; not needed for an --insecure server.")]
_Run = Annotated[str, typer.Argument(help="Name of the run, as `plait runs` shows it.")]
_JsonOutput = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings of the run, as for --config.")],
    server: _Server = "localhost:9440",
    kit: _Kit = None,
    priority: Annotated[int, typer.Option(help="Higher ones run first.", min=-1000, max=1000)] = 0,
    name: Annotated[str, typer.Option(help="Name of the run; by default run-1, run-2 …")] = "",
    json_output: _JsonOutput = False,
) -> None:
    """Submit a run to a standing server (`plait server --stay`); an operator's kit is needed.

    Example: plait submit run.toml --server fed.example.org:9440 --kit olga
    """
    settings = config_from_table(read_config_table(config), where=str(config))
    run = _calls(server, kit).submit(settings.to_table(), priority=priority, name=name)
    text = f"submitted {run}; `plait runs` shows the queue, `plait fetch {run} DIR` gets it once it is over"
    _print_result(json_output, text, run=run, state="queued")


def runs(server: _Server = "localhost:9440", kit: _Kit = None, json_output: _JsonOutput = False) -> None:
    """List the newest queued, running and past runs of a standing server.

    Example: plait runs --server fed.example.org:9440 --kit olga
    """
    found = _calls(server, kit).runs()
    if json_output:
        print_json({"runs": found})
        return
    rows = tuple(tuple(printable(str(run.get(key, "")), limit=_MOST_SHOWN) for key in _HEADINGS) for run in found)
    print_tables([Table("Runs", _HEADINGS, rows, text_columns=(0, 1, 3, 4, 5, 6))])


def cancel(run: _Run, server: _Server = "localhost:9440", kit: _Kit = None, json_output: _JsonOutput = False) -> None:
    """Cancel a queued or running run; an operator's kit is needed. Its record stays at the server.

    Example: plait cancel run-3 --server fed.example.org:9440 --kit olga
    """
    was = _calls(server, kit).cancel(run)
    _print_result(json_output, f"cancelled {run}, which was {was}", run=run, was=was, state="cancelled")


def fetch(
    run: _Run,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it; a new directory.")],
    server: _Server = "localhost:9440",
    kit: _Kit = None,
    max_gb: Annotated[float, typer.Option(help="Largest run to fetch.", min=0)] = 20.0,
    json_output: _JsonOutput = False,
) -> None:
    """Fetch adapter, report, ledger and settings of a run that is over; of one that failed, ledger and settings.

    Example: plait fetch run-3 runs/third --server fed.example.org:9440 --kit olga
    """
    files: list[Json] = [str(file) for file in _calls(server, kit).fetch(run, directory, max_gb=max_gb)]
    text = f"fetched {len(files)} files of {run} into {directory}"
    _print_result(json_output, text, run=run, directory=str(directory), files=files)


def _calls(server: str, kit: Path | None) -> "OperatorCalls":
    return OperatorCalls(Address.parse(server, what="server"), None if kit is None else StaffKit.load(kit))


def _print_result(as_json: bool, text: str, **figures: Json) -> None:
    if as_json:
        print_json(figures)
    else:
        print_text(text)


@dataclass(frozen=True)
class OperatorCalls:
    """The calls of an operator; the kit is None for an insecure server on this machine."""

    address: Address
    kit: StaffKit | None

    def submit(self, config: Mapping[str, Scalar], *, priority: int = 0, name: str = "") -> str:
        """Put a run into the queue; returns its name."""
        request = pb.SubmitRequest(config_json=json.dumps(dict(config)), priority=priority, name=name)
        reply = self._ask(lambda stub: cast("pb.SubmitReply", stub.Submit(request, timeout=_CALL_S)))
        return printable(reply.run, limit=_MOST_SHOWN)

    def cancel(self, run: str) -> str:
        """Cancel a run; returns what it was doing."""
        request = pb.CancelRequest(run=run)
        reply = self._ask(lambda stub: cast("pb.CancelReply", stub.Cancel(request, timeout=_CALL_S)))
        return printable(reply.was, limit=_MOST_SHOWN)

    def runs(self) -> list[dict[str, object]]:
        """The newest runs in the order of their submission."""
        reply = self._ask(lambda stub: cast("pb.RunsReply", stub.Runs(pb.RunsRequest(), timeout=_CALL_S)))
        found = json_object(reply.json, what=f"answer of {self.address}").get("runs")
        runs = cast("list[object]", found) if isinstance(found, list) else []
        return [cast("dict[str, object]", run) for run in runs if isinstance(run, dict)]

    def fetch(self, run: str, directory: Path, *, max_gb: float) -> list[Path]:
        """Fetch the files of a run that is over into a new directory, which appears only once all are here."""
        if directory.exists():
            raise ConfigError(f"'{directory}' exists, give a new directory")

        def receive(stub: OperationsStub) -> list[Path]:
            parts = cast("Iterable[pb.FilePart]", stub.Fetch(pb.FetchRequest(run=run), timeout=_FETCH_S))
            with directory_written_aside(directory) as aside:
                return _received(parts, aside, max_gb=max_gb)

        return self._ask(receive)

    def _ask(self, call: Callable[[OperationsStub], Result]) -> Result:
        with open_channel(self.address, self.kit) as channel:
            try:
                return call(OperationsStub(channel))
            except grpc.RpcError as error:
                raise self._plain(cast("grpc.Call", error)) from error

    def _plain(self, error: grpc.Call) -> PlaitError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return ConfigError(details)
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return PeerError(f"{self.address} refuses: {details}")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return PeerError(f"{self.address} serves one run and has no queue; `plait server --stay` has one")
        failed = f"could not do it ({code.name}): {details}"
        return unanswered(code, self.address, self.kit, otherwise=failed)


def _received(parts: Iterable[pb.FilePart], directory: Path, *, max_gb: float) -> list[Path]:
    places: list[Path] = []
    total = 0
    for part in parts:
        place = _place(part.path)
        total += len(part.data)
        if not total <= max_gb * 1e9:  # so nothing is within NaN
            raise PeerError(f"the run has more than {max_gb:g} GB with '{place}'; give --max-gb to fetch more")
        if place not in places:
            if len(places) >= _MOST_FILES:
                raise PeerError(f"server sent more than {_MOST_FILES} files")
            places.append(place)
            (directory / place).parent.mkdir(exist_ok=True)
        with (directory / place).open("ab") as file:
            file.write(part.data)
    if not places:
        raise PeerError("server sent no files of the run")
    return places


def _place(path: str) -> Path:
    """Where a file goes: beside the ledger or among the adapter's, and nowhere else."""
    folder, _, name = path.rpartition("/")
    known = {"": _OF_A_RUN, "adapter": _OF_AN_ADAPTER}.get(folder, ())
    if not _PLAIN.fullmatch(name) or not any(fnmatchcase(name, pattern) for pattern in known):
        raise PeerError(f"server names a file {path[:80]!a}, which is none of a run directory")
    return Path(folder, name)

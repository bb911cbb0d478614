"""An operator's calls to a standing server: submit and cancel runs, list them, fetch their files.

Knows nothing of what settings and run directories mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar, cast

import grpc

from plait.address import Address
from plait.config import Scalar
from plait.errors import ConfigError, MachineError, PeerError
from plait.files import directory_written_aside
from plait.text import printable
from plait.transport.credentials import open_channel
from plait.transport.json_object import json_object
from plait.trust.diagnose import explain
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
Result = TypeVar("Result")


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
            raise ConfigError(f"'{directory}' is there already, expected a new directory")

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

    def _plain(self, error: grpc.Call) -> ConfigError | PeerError | MachineError:
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return ConfigError(details)
        if code is grpc.StatusCode.PERMISSION_DENIED:
            return PeerError(f"{self.address} refuses: {details}")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return PeerError(f"{self.address} serves one run and has no queue, expected `plait server --stay` there")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return MachineError(f"no plait server answers: {explain(self.address.host, self.address.port, self.kit)}")
        return MachineError(f"{self.address} could not do it ({code.name}): {details}")


def _received(parts: Iterable[pb.FilePart], directory: Path, *, max_gb: float) -> list[Path]:
    """Write files as they arrive; a server that cannot send all of them ends the call with an error."""
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
        raise PeerError("server sent no files, expected those of a run")
    return places


def _place(path: str) -> Path:
    """Where a file goes: beside the ledger or among the adapter's, and nowhere else."""
    folder, _, name = path.rpartition("/")
    known = {"": _OF_A_RUN, "adapter": _OF_AN_ADAPTER}.get(folder, ())
    if not _PLAIN.fullmatch(name) or not any(fnmatchcase(name, pattern) for pattern in known):
        raise PeerError(f"server names a file {path[:80]!a}, expected one of a run directory")
    return Path(folder, name)

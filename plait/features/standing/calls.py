"""An operator's calls to a standing server: submit and cancel runs, list them, fetch their files.

Knows nothing of what settings and run directories mean.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, TypeVar, cast

import grpc

from plait.address import Address
from plait.config import Scalar
from plait.errors import ConfigError, MachineError, PeerError
from plait.files import cannot_write, directory_written_aside
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


class AwayError(MachineError):
    """No server answers, for now: it may be restarting."""


@dataclass(frozen=True)
class OperatorCalls:
    """The calls of one person.

    Attributes:
        kit: an operator's or observer's; None for an insecure server on this machine.
    """

    address: Address
    kit: StaffKit | None

    def submit(
        self, config: Mapping[str, Scalar], *, priority: int = 0, cohort_labels: Sequence[str] = (), name: str = ""
    ) -> str:
        """Put a run into the queue; returns its name.

        Raises:
            ConfigError: the server does not take it: unknown settings, a full queue, labels that no client states.
            PeerError: the kit's role does not allow it.
            MachineError: no server answers.
        """
        request = pb.SubmitRequest(
            config_json=json.dumps(dict(config)), priority=priority, cohort_labels=cohort_labels, name=name
        )
        reply = self._ask(lambda stub: cast("pb.SubmitReply", stub.Submit(request, timeout=_CALL_S)))
        return printable(reply.run, limit=_MOST_SHOWN)

    def cancel(self, run: str) -> str:
        """Cancel a run; returns what it was doing.

        Raises:
            ConfigError: there is no such run, or it is over.
            PeerError: the kit's role does not allow it.
            MachineError: no server answers.
        """
        request = pb.CancelRequest(run=run)
        reply = self._ask(lambda stub: cast("pb.CancelReply", stub.Cancel(request, timeout=_CALL_S)))
        return printable(reply.was, limit=_MOST_SHOWN)

    def runs(self, *, before: str = "") -> dict[str, object]:
        """A page of the queue and the past runs, as `plait runs --json` prints it.

        Args:
            before: only runs that were submitted before this one; empty for the newest.

        Raises:
            ConfigError: there is no such run.
            PeerError: the kit is refused, or the answer is not a JSON object.
            MachineError: no server answers.
        """
        return self._page(pb.RunsRequest(before=before))

    def run(self, name: str) -> dict[str, object]:
        """One run.

        Raises:
            ConfigError: there is no such run.
            PeerError: the kit is refused, or the answer does not have the run.
            MachineError: no server answers.
        """
        runs = self._page(pb.RunsRequest(run=name)).get("runs")
        for entry in cast("list[object]", runs) if isinstance(runs, list) else []:
            if isinstance(entry, dict):
                return cast("dict[str, object]", entry)
        raise PeerError(f"{self.address} gives no run, expected '{name}'")

    def _page(self, request: pb.RunsRequest) -> dict[str, object]:
        reply = self._ask(lambda stub: cast("pb.RunsReply", stub.Runs(request, timeout=_CALL_S)))
        return json_object(reply.json, what=f"answer of {self.address}")

    def fetch(self, run: str, directory: Path, *, max_gb: float) -> list[Path]:
        """Fetch the files of a run into a new directory; it appears only once all are here.

        Returns:
            The files, relative to the directory.

        Raises:
            ConfigError: there is no such run, it is not over, or the directory is there already.
            PeerError: the kit is refused, or the server sends what is not a run, or more.
            MachineError: no server answers, or the directory cannot be written.
        """
        if directory.exists():
            raise ConfigError(f"'{directory}' is there already, expected a new directory")

        def receive(stub: OperationsStub) -> list[Path]:
            parts = cast("Iterable[pb.FilePart]", stub.Fetch(pb.FetchRequest(run=run), timeout=_FETCH_S))
            try:
                with directory_written_aside(directory) as aside:
                    return _received(parts, aside, max_gb=max_gb)
            except OSError as error:
                raise cannot_write(directory, error) from error

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
            return AwayError(f"no plait server answers: {explain(self.address.host, self.address.port, self.kit)}")
        return MachineError(f"{self.address} could not do it ({code.name}): {details}")


def _received(parts: Iterable[pb.FilePart], directory: Path, *, max_gb: float) -> list[Path]:
    """Write files as they arrive."""
    places: list[Path] = []
    left = total = 0
    file: IO[bytes] | None = None
    try:
        for part in parts:
            if part.HasField("start"):
                if left:
                    raise PeerError(f"server sent '{places[-1]}' {left} bytes short")
                if file is not None:
                    file.close()
                place, left = _place(part.start), part.start.size
                total += left
                if total > max_gb * 1e9:
                    raise PeerError(
                        f"the run has {total / 1e9:.3g} GB with '{place}', expected at most {max_gb:g}; give --max-gb "
                        "to fetch more"
                    )
                if place in places or len(places) >= _MOST_FILES:
                    raise PeerError(f"server sent '{place}' twice, or more than {_MOST_FILES} files")
                places.append(place)
                (directory / place).parent.mkdir(exist_ok=True)
                file = (directory / place).open("xb")
            elif file is None or len(part.data) > left:
                raise PeerError("server sent more data than it announced")
            else:
                file.write(part.data)
                left -= len(part.data)
        if left or not places:
            raise PeerError("server sent less than a run, expected all of its files")
    finally:
        if file is not None:
            file.close()
    return places


def _place(start: pb.FileStart) -> Path:
    """Where a file goes: beside the ledger or among the adapter's, and nowhere else."""
    folder, _, name = start.path.rpartition("/")
    known = {"": _OF_A_RUN, "adapter": _OF_AN_ADAPTER}.get(folder, ())
    if not _PLAIN.fullmatch(name) or not any(fnmatchcase(name, pattern) for pattern in known):
        raise PeerError(f"server names a file {start.path[:80]!a}, expected one of a run directory")
    return Path(folder, name)

"""What left a node: a line for each answer, on disk before it is sent; `plait evidence --attest` states what they say.

A line has size, digest and the names of the fields, never their values. Lines are chained by SHA-256. Knows nothing of
how answers travel; a repeated upload adds no line.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from plait.errors import PeerError
from plait.files import cannot_write, make_private_directory, read_if_there
from plait.places import at
from plait.rounds.ledger import canonical
from plait.wire.envelope import SIGNED_DOMAIN, read_envelope, split_frame
from plait.wire.messages import Refusal, UpdateReply, decode_reply, run_of

if TYPE_CHECKING:
    from client.settings import NodeSettings
    from client.task import Answer, Capacity, Run, Task, TaskRunner

_NONE = "0" * 64
_LAST_BYTES = 1 << 20
"""Enough for the last line and a torn one: names of fields, no values."""


def recorded(settings: NodeSettings, opening: Callable[[Run], TaskRunner]) -> Callable[[Run], TaskRunner]:
    """What opens a run at a node, so that what is sent for it is recorded."""

    def opened(run: Run) -> TaskRunner:
        runner = opening(run)
        kit = settings.kit
        digest = at("client.consent:consent_digest")
        consent = digest(run.config, run.base_fingerprint, kit.tls.authority if kit else b"")
        agreed = at("client.consent:Consents").of(settings.state, settings.name).has(consent)
        policy = hashlib.sha256(canonical(settings.policy.model_dump(mode="json"))).hexdigest()
        note: dict[str, Any] = {"run_id": f"{run.run_id:016x}", "consent": consent if agreed else "", "policy": policy}
        return _Recording(runner, SentLines.of(settings.state, settings.name), note)

    return opened


@dataclasses.dataclass(frozen=True)
class SentLines:
    """The lines of one node.

    Attributes:
        path: made with the first line, private to its owner.
    """

    path: Path

    @classmethod
    def of(cls, state: Path, name: str) -> SentLines:
        """Those of the node called `name`."""
        return cls(state / f"{name}.sent.jsonl")

    def read(self) -> list[dict[str, Any]]:
        """All whole lines.

        Raises:
            PeerError: one was changed, or one is missing.
            MachineError: they cannot be read.
        """
        found: list[dict[str, Any]] = []
        before = _NONE
        for number, raw in enumerate((read_if_there(self.path) or b"").split(b"\n")[:-1], 1):
            try:
                line = cast("dict[str, Any]", json.loads(raw))
                whole = line["prev"] == before and canonical(line) == raw
            except (ValueError, KeyError, TypeError) as error:
                raise PeerError(f"line {number} of '{self.path}' is none of plait's") from error
            if not whole:
                raise PeerError(
                    f"line {number} of '{self.path}' breaks the hash chain: it was changed, or one is missing"
                )
            before = hashlib.sha256(raw).hexdigest()
            found.append(line)
        return found

    def append(self, line: dict[str, Any]) -> None:
        """Add a line, on disk before this returns.

        Raises:
            MachineError: the disk is full or read-only.
        """
        try:
            make_private_directory(self.path.parent)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                size = os.fstat(descriptor).st_size
                whole, _, torn = os.pread(descriptor, _LAST_BYTES, max(0, size - _LAST_BYTES)).rpartition(b"\n")
                end = size - len(torn)
                last = whole.rpartition(b"\n")[2]
                before = hashlib.sha256(last).hexdigest() if last else _NONE
                os.ftruncate(descriptor, end)
                os.pwrite(descriptor, canonical(line | {"prev": before}) + b"\n", end)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise cannot_write(self.path, error) from error


@dataclasses.dataclass(eq=False)
class _Recording:
    """A task runner that records what it answers."""

    runner: TaskRunner
    lines: SentLines
    note: dict[str, Any]

    @property
    def capacity(self) -> Capacity:
        """What this node can do."""
        return self.runner.capacity

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task."""
        answer = self.runner.answer(task, body)
        run = self.note.get("run") or _run_of(task.head + body)
        if run:
            self.note["run"] = run
        said = {"bytes": len(answer.data), "sha256": answer.sha256.hex(), **described(answer.data)}
        self.lines.append({**self.note, "task": task.message_type, **said})
        return answer


def described(data: bytes) -> dict[str, Any]:
    """The fields of an answer by name, and of an update what its signature covers, by its digest."""
    try:
        reply = decode_reply(data, max_bytes=len(data))
    except PeerError:
        return {"fields": ["error"]}
    if isinstance(reply, UpdateReply):
        header = read_envelope(reply.update, max_bytes=len(reply.update)).header
        signed = hashlib.sha256(SIGNED_DOMAIN + bytes(split_frame(reply.update).header)).hexdigest()
        fields = ["update: delta", "update: examples", *(f"update: {name}" for name in header.metrics)]
        return {"fields": sorted(fields), "signed": signed}
    kind = {"ClientCard": "description", "Evaluation": "evaluation"}.get(type(reply).__name__, type(reply).__name__)
    if isinstance(reply, Refusal):
        kind = "refusal"
    return {"fields": sorted(f"{kind}: {name}" for name in _names(reply))}


def _names(reply: object) -> Sequence[str]:
    if not dataclasses.is_dataclass(reply):
        return ()
    return [each.name for each in dataclasses.fields(reply) if getattr(reply, each.name) is not None]


def _run_of(task: bytes) -> str:
    """The run of a task as ledgers name it; empty where the task does not say."""
    try:
        return run_of(task, max_bytes=len(task)).hex()
    except PeerError:
        return ""

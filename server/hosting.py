"""Which run the nodes work for: one at a time, and none between two runs of a standing server.

A node learns of its run by a welcome, with a new session for every run: whatever it still sends for an earlier one is
refused, and cannot be taken for the new one's. Knows nothing of gRPC's calls, and not why runs begin and end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path

from plait.config import Scalar
from plait.rounds.run_progress import RunProgress
from plait.v1 import federation_pb2 as pb
from plait.welcome import welcome_table
from server.sessions import Session, Sessions
from server.tasks import TaskRegistry
from server.uploads import Uploads


@dataclass(frozen=True)
class Terms:
    """Values sent to every node that a run admits.

    Attributes:
        run_config: the run configuration; nodes receive the part that clients need.
        base_fingerprint: SHA-256 of the base, 32 bytes; empty admits nodes with any base.
    """

    run_id: int
    run_config: Mapping[str, Scalar]
    base_fingerprint: bytes
    run_config_json: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "run_config_json", json.dumps(welcome_table(self.run_config), sort_keys=True))


@dataclass(frozen=True, eq=False)
class HostedRun:
    """A run as the service serves it.

    Attributes:
        tasks: its tasks; the sessions of their nodes outlive it.
        max_answer_bytes: the largest answer that it accepts.
        summary: its progress, for the status; called from other threads.
        directory: of the run; on the disk whose free space is told.
    """

    terms: Terms
    _: KW_ONLY
    tasks: TaskRegistry
    uploads: Uploads
    max_answer_bytes: int
    summary: Callable[[], RunProgress] = RunProgress
    directory: Path | None = None


class Hosting:
    """The run of now.

    Args:
        stays: whether nodes are to stay when a run is over.

    Attributes:
        directory: of the newest run; None before the first.
    """

    def __init__(self, sessions: Sessions, *, stays: bool = False) -> None:
        self.sessions = sessions
        self.stays = stays
        self.directory: Path | None = None
        self._run: HostedRun | None = None

    @property
    def run(self) -> HostedRun | None:
        """The run; None between two."""
        return self._run

    def run_of(self, session: Session) -> HostedRun | None:
        """The run that a node works for; None for none."""
        run = self._run
        return run if run is not None and run.terms.run_id == session.run_id else None

    def begin(self, run: HostedRun) -> None:
        """Welcome all nodes to a run, in place of any other."""
        self.directory = run.directory or self.directory
        self._move_all(run)

    def end(self) -> None:
        """The run is over: its nodes wait for another."""
        self._move_all(None)

    def enter(self, session: Session) -> None:
        """Welcome a node that has just proved its key."""
        with self.sessions.changed:
            self._welcome(session)

    def _move_all(self, run: HostedRun | None) -> None:
        with self.sessions.changed:
            before = self._run
            self._run = run
            for node in self.sessions.all():
                session = node.session
                if session is not None and session.is_open and (session.run_id or run is not None):
                    if before is not None and before.terms.run_id == session.run_id:
                        before.tasks.let_go(session)
                    self._welcome(session)

    def _welcome(self, session: Session) -> None:
        run = self._run
        self.sessions.move(session, 0 if run is None else run.terms.run_id)
        welcome = pb.Welcome(session=session.token, node_id=session.node.number, stays=self.stays)
        if run is not None:
            terms = run.terms
            welcome.run_id, welcome.run_config_json = terms.run_id, terms.run_config_json
            welcome.base_fingerprint, welcome.max_answer_bytes = terms.base_fingerprint, run.max_answer_bytes
        session.put(pb.ToNode(welcome=welcome))

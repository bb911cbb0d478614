"""Which run the nodes work for, and its status for operators: one run at a time, none between two of a queue.

A node learns of its run by a welcome, with a new session for every run: whatever it still sends for an earlier one is
refused, and cannot be taken for the new one's.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path

from plait import __version__
from plait.config import Scalar
from plait.ledger.run_now import WAITING, Progress, RunNow
from plait.system.text import Json
from plait.v1 import federation_pb2 as pb
from plait.wire.welcome import welcome_table
from server.sessions import KnownNode, NodeSession, Sessions
from server.tasks import ServerTask, TaskRegistry
from server.uploads import Uploads


@dataclass(frozen=True)
class Terms:
    """Values sent to every node that a run admits; an empty fingerprint admits nodes with any base."""

    run_id: int
    run_config: Mapping[str, Scalar]
    base_fingerprint: bytes

    @cached_property
    def run_config_json(self) -> str:
        """The settings that a welcome has."""
        return json.dumps(welcome_table(self.run_config), sort_keys=True)


@dataclass(frozen=True, eq=False)
class HostedRun:
    """A run as the service serves it; `progress` may be called in any thread."""

    terms: Terms
    _: KW_ONLY
    tasks: TaskRegistry
    uploads: Uploads
    max_answer_bytes: int
    progress: Progress = lambda: nullcontext(RunNow())
    directory: Path | None = None


class Hosting:
    """The current run; None between two."""

    def __init__(self, sessions: Sessions, *, stays: bool = False) -> None:
        self.sessions = sessions
        self.stays = stays
        self.directory: Path | None = None
        self.run: HostedRun | None = None

    def run_of(self, session: NodeSession) -> HostedRun | None:
        """The run that a node works for; None for none."""
        run = self.run
        return run if run is not None and run.terms.run_id == session.run_id else None

    def host(self, run: HostedRun | None) -> None:
        """Welcome all nodes to a run, in place of any other; None if they are to wait for the next."""
        with self.sessions.changed:
            before, self.run = self.run, run
            self.directory = (run and run.directory) or self.directory
            for node in self.sessions.all():
                session = node.session
                if session is not None and session.is_open and (session.run_id or run is not None):
                    if before is not None and before.terms.run_id == session.run_id:
                        before.tasks.let_go(session)
                    self.enter(session)

    def enter(self, session: NodeSession) -> None:
        """Welcome a node, which has just proved its key or is to work for another run."""
        with self.sessions.changed:
            run = self.run
            self.sessions.move(session, 0 if run is None else run.terms.run_id)
            welcome = pb.Welcome(session=session.token, node_id=session.node.number, stays=self.stays)
            if run is not None:
                terms = run.terms
                welcome.run_id, welcome.run_config_json = terms.run_id, terms.run_config_json
                welcome.base_fingerprint, welcome.max_answer_bytes = terms.base_fingerprint, run.max_answer_bytes
                welcome.run_name = run.directory.name if run.directory else ""
            session.put(pb.ToNode(welcome=welcome))


def status_of_host(hosting: Hosting) -> str:
    """What `plait status --json` prints, on one line, of the run that is served now, or of none."""
    run = hosting.run
    with nullcontext(RunNow(state="waiting for a run")) if run is None else run.progress() as progress:
        return json.dumps(_status(hosting, run, progress))


def _status(hosting: Hosting, run: HostedRun | None, progress: RunNow) -> dict[str, Json]:
    now = time.monotonic()
    nodes, tasks = hosting.sessions.all(), [] if run is None else run.tasks.all()
    of_node: dict[str, list[ServerTask]] = {}
    for task in tasks:
        of_node.setdefault(task.node, []).append(task)
    known = {node.name: node for node in nodes}
    names = list((progress.in_round and progress.cohort) or of_node)
    cohort = [_member(name, known.get(name), of_node.get(name, []), now, progress) for name in names]
    return {
        "run": run.directory.name if run and run.directory else "",
        "state": _state(progress, nodes),
        "round": progress.round,
        "rounds": progress.planned_rounds,
        "deadline_s": progress.settings.get("deadline-s") or None,
        "eta_s": _rounded(progress.eta_s),
        "staleness": _rounded(progress.mean_staleness),
        "told": {card.title: dict(card.status) for card in progress.cards.values() if card.status},
        "cohort": [*cohort],
        "unfit": [
            {"name": name, "reason": event.reason, "detail": event.detail}
            for name, event in sorted(progress.unfit.items())
        ],
        "late": [member["name"] for member in cohort if member["late_s"] is not None],
        "nodes": [_attached(node, node.session, now) for node in nodes if node.session is not None],
        "nodes_away": [
            {"name": node.name, "away_s": _rounded(now - node.left), **_sent(node)}
            for node in nodes
            if not node.session
        ],
        "downlink_bytes": sum(node.downlink_bytes for node in nodes),
        "uplink_bytes": sum(node.uplink_bytes for node in nodes),
        "version": __version__,
        "time": round(time.time(), 3),
        "disk_free_bytes": _free_bytes(hosting.directory),
    }


def _free_bytes(directory: Path | None) -> int | None:
    with suppress(OSError):
        return None if directory is None else shutil.disk_usage(directory).free
    return None


def _state(progress: RunNow, nodes: Sequence[KnownNode]) -> str:
    """The run's state, with the clients that are here now; the ledger knows past ones."""
    if not progress.wanted or progress.state != WAITING:
        return progress.state
    ready = [node.name in progress.unfit for node in nodes if node.is_ready]
    unfit = f", {sum(ready)} more cannot take part" if any(ready) else ""
    return f"{progress.state}: {ready.count(False)} of {progress.wanted} are ready{unfit}"


def _member(
    name: str, node: KnownNode | None, tasks: Sequence[ServerTask], now: float, progress: RunNow
) -> dict[str, Json]:
    waiting_s = max((now - task.given for task in tasks if task.is_open), default=None)
    limit_s, lost = progress.late_after_s, progress.lost.get(name)
    late_s = None if waiting_s is None or limit_s is None else waiting_s - limit_s
    away = node is None or node.session is None
    return {
        "name": name,
        "state": (f"lost: {lost}" if lost else "answered") if waiting_s is None else "away" if away else "working",
        "waiting_s": _rounded(waiting_s),
        "late_s": _rounded(late_s) if late_s and late_s > 0 else None,
        "doing": node.session.doing if node is not None and node.session is not None else "",
    }


def _attached(node: KnownNode, session: NodeSession, now: float) -> dict[str, Json]:
    fitness = session.fitness
    return {
        "name": node.name,
        "ready": fitness is not None,
        "version": node.version,
        "device": fitness.device if fitness else "",
        "memory_bytes": fitness.memory_bytes if fitness else 0,
        "methods": list(fitness.methods) if fitness else [],
        "doing": session.doing,
        "doing_s": _rounded(now - session.doing_since),
        "is_uploading": node.uploads > 0,
        "attached_s": _rounded(now - session.since),
        **_sent(node),
    }


def _sent(node: KnownNode) -> dict[str, Json]:
    return {"downlink_bytes": node.downlink_bytes, "uplink_bytes": node.uplink_bytes}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)

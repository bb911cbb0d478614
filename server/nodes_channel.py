"""plait's gRPC service as the `Channel` of the run that it serves; the run calls it from a thread of its own.

A task goes to its node at once and again after a reconnect, and its answer is read from disk only when it is received.
"""

import logging
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from plait.api.serving import Serving
from plait.errors import ConfigError, MachineError, PeerError, PlaitError, RunInterrupted
from plait.ledger.run_now import Progress, RunNow
from plait.rounds.channel import (
    Channel,
    Clock,
    Data,
    Exchange,
    Identity,
    Liveness,
    NoAnswer,
    Purpose,
    StopRequest,
    TaskParts,
)
from plait.rounds.roster import REPLY_BYTES
from plait.system.address import Address
from plait.system.machine import allow_open_files
from plait.system.text import printable
from plait.transport.credentials import server_credentials
from plait.transport.protocol import DIGEST_BYTES, MESSAGE_TYPES
from plait.trust.kit import ServerKit
from plait.trust.register import Register
from plait.v1 import federation_pb2 as pb
from server.guard import CallGuard, MoreCalls, Revocation
from server.hosting import HostedRun, Hosting, Terms, status_of_host
from server.inbox import Inbox
from server.monitoring import Metrics, MetricsServer, log
from server.service import FederationService, GrpcServer
from server.sessions import Sessions
from server.tasks import ServerTask, TaskRegistry, TaskState
from server.uploads import Limits, Uploads

_LONGEST_PAUSE_S = 60.0
_DISK_THREADS = 4
_REGISTER_EVERY_S = 5.0
_QUOTA_ANSWERS = 4
_OWN_FILES = 256
_MOST_DETAIL = 1024
_LONGEST_WAIT_S = 1.0
_NEWCOMERS = 16
_AT_THE_DOOR = 64


@dataclass(eq=False)
class NodesExchange(Exchange):
    """An exchange with nodes over gRPC."""

    channel: "NodesChannel"
    tasks: TaskRegistry
    purpose: Purpose
    group: str

    def __post_init__(self) -> None:
        self._waiting: dict[ServerTask, int] = {}
        self._unsent: deque[int] = deque()
        self._settled: Iterator[ServerTask] = iter(())

    def __exit__(self, *error: object) -> None:
        # A server that is asked to end, or whose disk is full, goes on later: clients work on meanwhile.
        if not any(isinstance(each, RunInterrupted | KeyboardInterrupt | MachineError) for each in error):
            self.tasks.withdraw(self._waiting, "enough")
        self._waiting.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Send a task to a node."""
        given = self.channel.give(node, MESSAGE_TYPES[self.purpose], group or self.group, task)
        if given is None:
            self._unsent.append(node)
        else:
            self._waiting[given] = node

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        given_up = [task for task, asked in self._waiting.items() if asked == node]
        self.tasks.withdraw(given_up, reason)
        for task in given_up:
            del self._waiting[task]

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """Wait for the next answer."""
        if self._unsent:
            node = self._unsent.popleft()
            return node, NoAnswer(f"node {node} could not be sent its task")
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while self._waiting:
            if found := self._next():
                return found
            left_s = _LONGEST_PAUSE_S if end is None else end - time.monotonic()
            if left_s <= 0:
                return None
            self.channel.wait(left_s)
        return None

    def _next(self) -> tuple[int, Data | NoAnswer] | None:
        """An available answer: those found in one pass over the tasks, one by one, then those of another pass."""
        for look_again in (True, False):
            for task in self._settled:
                node = self._waiting.pop(task, None)
                if node is not None:  # else it was withdrawn meanwhile
                    return node, self._answer(task)
            if look_again:
                self.channel.check()
                self._settled = iter(self.tasks.settled(self._waiting))
        return None

    def _answer(self, task: ServerTask) -> Data | NoAnswer:
        if task.state is TaskState.FAILED:
            self.tasks.pulled(task, keep=False)
            reason = task.reason
        else:
            answer = self.tasks.read(task)
            failed = answer.content == pb.CONTENT_ERROR
            self.tasks.pulled(task, keep=not failed)
            if not failed:
                return answer.data
            reason = bytes(answer.data).decode(errors="replace")
        return NoAnswer(f"node {task.node} failed: {printable(reason)}")


class NodesChannel(Channel):
    """A channel that serves between `start` and `stop`, one run at a time, `begin` to `end`."""

    open_ended = True

    def __init__(
        self,
        listen: str,
        *,
        kit: ServerKit | None,
        limits: Limits,
        metrics_listen: str | None = None,
        stays: bool = False,
        more: MoreCalls | None = None,
    ) -> None:
        self.clock = Clock()
        self._address = Address.parse(listen, what="listen", listening=True)
        if kit is None and not self._address.is_loopback:
            raise ConfigError(
                f"{self._address} can be reached from other machines, expected a loopback address (127.0.0.1) or --kit"
            )
        self._kit = kit
        self._limits = limits
        self._sessions = Sessions(max_nodes=limits.max_nodes)
        self._hosting = Hosting(self._sessions, stays=stays)
        self._metrics = Metrics()
        register = Register.load(kit.directory) if kit is not None else None
        self._revocation = Revocation(register, hosting=self._hosting, metrics=self._metrics)
        self._metrics.follow_run(self._progress)
        self._metrics.nodes_away.set_function(lambda: sum(node.session is None for node in self._sessions.all()))
        self._metrics_listen = metrics_listen
        self._metrics_server: MetricsServer | None = None
        self._begun: HostedRun | None = None
        self._inbox: Inbox | None = None
        self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="plait-disk")
        self._finished = False
        self._sweeping: Future[None] | None = None
        self._register_read = 0.0
        self._stop = StopRequest()
        wanted = limits.max_nodes + limits.max_unproven + limits.strangers
        self._server = GrpcServer(
            self._address,
            None if kit is None else server_credentials(kit),
            service=partial(
                FederationService,
                hosting=self._hosting,
                revocation=self._revocation,
                metrics=self._metrics,
                disk=self._disk,
                operator_token=None if kit is None else kit.operator_token.encode(),
                limits=limits,
            ),
            more=[more(self._disk)] if more else [],
            guard=CallGuard(self._revocation),
            tend=self._tend,
            drain=lambda: self._sessions.close_all(pb.ToNode(drain=pb.Drain(finished=self._finished))),
            options=[("grpc.max_allowed_incoming_connections", _most_connections(wanted))],
        )

    def start(self) -> None:
        """Begin to serve."""
        if self._metrics_listen is not None:
            self._metrics_server = MetricsServer(self._metrics_listen, self._metrics)
        try:
            self._address = self._server.start()
        except BaseException:
            self._close()
            raise
        run = self._hosting.run
        log("serving", address=self._address, tls=self._kit is not None, run=0 if run is None else run.terms.run_id)

    def begin(
        self,
        terms: Terms,
        *,
        inbox: Path,
        max_answer_bytes: int | None = None,
        progress: Progress = lambda: nullcontext(RunNow()),
        stop: StopRequest | None = None,
    ) -> Self:
        """Begin a run, or continue it after a restart with the answers that its inbox holds; nodes are welcomed."""
        if len(terms.base_fingerprint) not in (0, DIGEST_BYTES):
            raise ConfigError(f"base fingerprint has {len(terms.base_fingerprint)} bytes, expected {DIGEST_BYTES}")
        limits = self._limits
        if max_answer_bytes is not None:
            limits = replace(limits, max_answer_bytes=max_answer_bytes)
        self._inbox = Inbox(inbox, node_quota_bytes=_QUOTA_ANSWERS * (limits.max_answer_bytes + 4096))
        tasks = TaskRegistry(self._inbox, self._sessions)
        uploads = Uploads(self._inbox, tasks, disk=self._disk, limits=limits, metrics=self._metrics)
        run = HostedRun(
            terms,
            tasks=tasks,
            uploads=uploads,
            max_answer_bytes=limits.max_answer_bytes,
            progress=progress,
            directory=inbox.parent,
        )
        self._begun, self._stop = run, stop or StopRequest()
        self._hosting.host(run)
        log("run-begins", run=terms.run_id)
        return self

    def end(self) -> None:
        """End the run; its nodes stay, and wait for another."""
        run = self._hosting.run
        self._hosting.host(None)
        if run is not None:
            log("run-ends", run=run.terms.run_id)
        self._clear_inbox()

    @property
    def _tasks(self) -> TaskRegistry:
        if self._begun is None:
            raise ConfigError("no run has begun here")
        return self._begun.tasks

    def _progress(self) -> AbstractContextManager[RunNow]:
        run = self._hosting.run
        return nullcontext(RunNow()) if run is None else run.progress()

    def stop(self, *, finished: bool = False) -> None:
        """Send the nodes away, for good if the run is finished, and end."""
        self._finished = finished
        self._server.stop()
        self._close()
        log("stopped", finished=finished)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.stop(finished=kind is None)

    @property
    def address(self) -> str:
        """Its address, with the actual port for a 0."""
        return str(self._address)

    def nodes(self, at_least: int) -> Sequence[int]:
        """The nodes that are connected, have proved their key, and hold the base, once there are enough."""
        while len(found := self._ready()) < at_least:
            self.wait(_LONGEST_WAIT_S)
        return found

    def _ready(self) -> list[int]:
        self.check()
        run = self._hosting.run
        return [] if run is None else sorted(node.number for node in self._sessions.ready(run.terms.run_id))

    def status_json(self) -> str:
        """What `plait status --json` prints; from any thread."""
        return status_of_host(self._hosting)

    def identity(self, node: int) -> Identity:
        """The name of a node, and the Ed25519 key that it proved; empty if it showed none."""
        found = self._sessions.node(node)
        if found is None:
            raise PeerError(f"node {node} has left")
        return Identity(found.name, found.public_key)

    def liveness(self, node: int) -> Liveness:
        """When a node connected, and the seconds since its last progress: a report, or bytes transferred."""
        found = self._sessions.node(node)
        session = found.session if found is not None else None
        if found is None or session is None:
            return Liveness()
        return Liveness(session.since, time.monotonic() - max(session.doing_since, found.moved))

    def turn_away(self, node: int, reason: str, detail: str) -> None:
        """Tell a node, if it is connected, why it cannot take part in the run."""
        found = self._sessions.node(node)
        if found is not None and found.session is not None:
            found.session.put(pb.ToNode(unfit=pb.Unfit(reason=reason, detail=printable(detail, limit=_MOST_DETAIL))))

    def exchange(self, purpose: Purpose, group: str) -> NodesExchange:
        """Begin to send tasks."""
        return NodesExchange(self, self._tasks, purpose, group)

    def give(self, node: int, message_type: str, group: str, task: TaskParts) -> ServerTask | None:
        """Send a task to a node that is or was connected; None if it never was."""
        self.check()
        found = self._sessions.node(node)
        if found is None:
            return None
        self._metrics.tasks_given.inc()
        head, body = task
        return self._tasks.give(found.name, message_type=message_type, group=group, head=head, body=body)

    def wait(self, timeout_s: float) -> None:
        """Block until an answer, a loss or an arrival since the last call, or until the time is over."""
        end = time.monotonic() + timeout_s
        while True:
            self._stop.check()
            self.check()
            # In slices, so that a request to stop and a failure of the service are noticed.
            left_s = max(end - time.monotonic(), 0.0)
            if self._tasks.wait(min(left_s, _LONGEST_WAIT_S)) or time.monotonic() >= end:
                return

    def check(self) -> None:
        """Check that it serves, and that the answers of its run can be stored."""
        self._server.check()
        if self._begun is not None and self._begun.tasks.failure is not None:
            raise self._begun.tasks.failure

    def _tend(self) -> None:
        run, inbox = self._hosting.run, self._inbox
        for task in [] if run is None else run.tasks.give_up_absent(self._limits.grace_s):
            self._metrics.tasks_lost.inc()
            log("lost", level=logging.WARNING, node=task.node, task=task.task_id)
        if inbox is not None and inbox.needs_sweep and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = self._disk.submit(inbox.sweep)
        if run is not None:
            run.uploads.tidy()
        self._metrics.nodes_attached.set(self._sessions.attached)
        self._metrics.bodies_held_bytes.set(0 if run is None else run.tasks.held_bytes)
        if time.monotonic() - self._register_read > _REGISTER_EVERY_S:
            self._register_read = time.monotonic()
            try:
                self._revocation.check_all()
            except PlaitError as error:
                # Connected nodes stay; no other is admitted and no answer accepted until the register can be read.
                log("register", level=logging.ERROR, detail=error)

    def _close(self) -> None:
        if self._metrics_server is not None:
            self._metrics_server.close()
            self._metrics_server = None
        self._disk.shutdown()
        self._clear_inbox()

    def _clear_inbox(self) -> None:
        if self._inbox is not None:
            self._inbox.close()
            self._inbox.sweep()
            self._inbox = None


def open_channel(serving: Serving, *, clients: int, stays: bool = False, more: MoreCalls | None = None) -> NodesChannel:
    """A channel without a run, with room for all provisioned clients and some newcomers: each node costs memory."""
    kit = ServerKit.load(serving.kit_directory) if serving.kit_directory else None
    registered = len(Register.load(kit.directory).clients) if kit is not None else clients
    limits = Limits(
        max_answer_bytes=REPLY_BYTES,
        grace_s=serving.grace_s,
        max_nodes=2 * max(registered, clients) + _NEWCOMERS,
        max_unproven=_AT_THE_DOOR,
    )
    return NodesChannel(
        serving.listen, kit=kit, limits=limits, metrics_listen=serving.metrics or None, stays=stays, more=more
    )


def _most_connections(wanted: int) -> int:
    """At most the number wanted, and few enough to leave open files for the rest: each takes one."""
    return min(wanted, max(allow_open_files(wanted + _OWN_FILES) - _OWN_FILES, 1))

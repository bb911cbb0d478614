"""A standing server: runs that an operator submits, served one after the other to clients that stay too.

Each is served as ``plait server`` serves its one (`server.served_run`). The queue is a folder with a file for each run,
so a killed server continues the run that it served, and forgets none.
"""

import asyncio
import itertools
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import grpc
import typer
from google.protobuf.message import Message
from pydantic import TypeAdapter, ValidationError

from plait.api.serving import CLIENTS_SETTINGS, Serving, new_run_number
from plait.api.simulate import is_reported
from plait.cli.serving import GraceS, Insecure, Kit, Listen, Metrics, log_to, stop_on_signals
from plait.config import RunConfig, Scalar, config_from_table
from plait.errors import ConfigError, DiskFullError, PeerError, PlaitError, PolicyError, RunInterrupted
from plait.ledger.events import ClientTurnedAway, Event, RoundStarted, WaitingForClients
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.terminal import say
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory
from plait.settle import check_vouched_for, settle
from plait.system.files import lock, make_private_directory, write_atomically, writes_to
from plait.system.machine import share_memory_between_threads
from plait.transport.protocol import CHUNK_BYTES
from plait.transport.status import json_object
from plait.trust.register import Register
from plait.v1 import federation_pb2 as pb
from server.guard import Context, MoreCalls
from server.nodes_channel import open_channel
from server.served_run import open_served_run

RUNS_FOLDER = "runs"
MOST_QUEUED = 64
_QUEUE_FOLDER = "queue"
_LOCK_FILE = "server.lock"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LOOK_S = 0.5
_MOST_LISTED = 100
_MOST_NAMED = 3
_MOST_DETAIL = 1000  # characters
_MOST_CONFIG_CHARACTERS = 16384
_MOST_SHOWN = 200  # characters of a value in a list
_SHOWN = ("base", "method", "rule", "bits", "rounds", "clients")
_CLIENTS_WITHOUT_KIT = 64
_OF_THE_MACHINE = ("publish", "callbacks", "fleet", "init_adapter", *CLIENTS_SETTINGS)
"""Settings that name files or code of the machine that reads them."""
# Fetched of a run; the plots and the adapter join them once it is finished. `OperatorCalls` takes no others.
_PUBLIC = ("config.toml", "ledger.jsonl", "summary.json", "report.html")
Result = TypeVar("Result")


class State(StrEnum):
    """The states of a run, in their order."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Entry:
    """One run, its `place` in the order of submission, and times in seconds since 1970."""

    run: str
    place: int
    number: int
    config: Mapping[str, Scalar]
    priority: int = 0
    submitted: float = field(default_factory=time.time)
    state: State = State.QUEUED
    begun: float | None = None
    ended: float | None = None
    detail: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state not in (State.QUEUED, State.RUNNING)


_ENTRY = TypeAdapter(Entry)


def read_queue(directory: Path) -> list[Entry]:
    """All runs of a federation, in the order of their submission; PeerError for a file that is not its run's."""
    entries: list[Entry] = []
    for file in (directory / _QUEUE_FOLDER).glob("[!.]*.json"):
        try:
            entry = _ENTRY.validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise PeerError(f"'{file}' is damaged: restore it, or remove it from the queue") from error
        if entry.run != file.stem or not _NAME.fullmatch(entry.run):
            raise PeerError(f"'{file}' is of run {entry.run[:64]!a}, not of the run of its name")
        entries.append(entry)
    return sorted(entries, key=lambda entry: entry.place)


class RunQueue:
    """The queue of a server, in its directory, which is made if missing; may be called from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._changed = threading.Condition()
        with writes_to(directory):
            for folder in (_QUEUE_FOLDER, RUNS_FOLDER):
                make_private_directory(directory / folder)
            (directory / _LOCK_FILE).touch(mode=0o600)
            self._lock = (directory / _LOCK_FILE).open("ab", buffering=0)
        try:
            if not lock(self._lock):
                raise ConfigError(f"'{directory}' is being served by another process")
            self._entries = {entry.run: entry for entry in read_queue(directory)}
        except PlaitError:
            self._lock.close()
            raise

    def close(self) -> None:
        """Let another server have the directory."""
        self._lock.close()

    def folder(self, run: str) -> Path:
        """The directory of a run."""
        return self.directory / RUNS_FOLDER / run

    def entries(self) -> list[Entry]:
        """All runs, in the order of their submission."""
        with self._changed:
            return list(self._entries.values())

    def entry(self, run: str) -> Entry:
        """One run; ConfigError if there is none of this name."""
        with self._changed:
            if entry := self._entries.get(run):
                return entry
            known = ", ".join(list(self._entries)[-5:]) or "none yet"
        raise ConfigError(f"run {run[:64]!a} does not exist; `plait runs` lists the known ones (the last: {known})")

    def submit(self, config: Mapping[str, Scalar], *, number: int, priority: int = 0, name: str = "") -> Entry:
        """Put a run into the queue; without a name it is the next of ``run-1``, ``run-2``."""
        with self._changed:
            if name and not _NAME.fullmatch(name):
                what = "letters, digits, '_' and '-', at most 64, no '-' in front"
                raise ConfigError(f"run name is {name[:80]!a}, expected {what}")
            place = max((entry.place for entry in self._entries.values()), default=0) + 1
            run = name or next(run for run in map("run-{}".format, itertools.count(place)) if self._is_free(run))
            if not self._is_free(run):
                raise ConfigError(f"run '{run}' exists already, give another name")
            if sum(entry.state is State.QUEUED for entry in self._entries.values()) >= MOST_QUEUED:
                raise ConfigError(f"queue is full: {MOST_QUEUED} runs wait; cancel one")
            return self._keep(Entry(run, place, number, dict(config), priority))

    def _is_free(self, run: str) -> bool:
        return run not in self._entries and not self.folder(run).exists()

    def running(self) -> Entry | None:
        """The run that is being served, or was when the server ended."""
        return next((entry for entry in self.entries() if entry.state is State.RUNNING), None)

    def begin_next(self, *, wait_s: float) -> Entry | None:
        """The next run to serve, which is running from now on: the most urgent, and the oldest of these."""
        with self._changed:
            entry = self._changed.wait_for(self._next, wait_s)
            return self._keep(replace(entry, state=State.RUNNING, begun=time.time())) if entry else None

    def end(self, run: str, state: State, detail: str = "") -> None:
        """A run ended by itself; nothing changes if it was cancelled meanwhile."""
        with self._changed:
            entry = self._entries[run]
            if entry.state is State.RUNNING:
                self._keep(replace(entry, state=state, ended=time.time(), detail=detail[:_MOST_DETAIL]))

    def cancel(self, run: str) -> State:
        """Cancel a run; returns the state that it was in."""
        with self._changed:
            entry = self.entry(run)
            if entry.is_over:
                raise ConfigError(f"run '{run}' is over ({entry.state}) and cannot be cancelled")
            self._keep(replace(entry, state=State.CANCELLED, ended=time.time()))
            return entry.state

    def _next(self) -> Entry | None:
        queued = [entry for entry in self._entries.values() if entry.state is State.QUEUED]
        # `max` gives the first of equals: the oldest.
        return max(queued, key=lambda entry: entry.priority, default=None)

    def _keep(self, entry: Entry) -> Entry:
        """Write a run's file; only then it holds."""
        file = self.directory / _QUEUE_FOLDER / f"{entry.run}.json"
        write_atomically(file, json.dumps(asdict(entry), indent=1).encode())
        self._entries[entry.run] = entry
        self._changed.notify_all()
        return entry


class RunQueueServer:
    """A standing server, which ends a run after `give_up_s` seconds in which its connected clients cannot take part."""

    def __init__(self, directory: Path, serving: Serving, *, give_up_s: float = 120.0, quiet: bool = False) -> None:
        self._serving, self._give_up_s, self._quiet = serving, give_up_s, quiet
        self._queue = RunQueue(directory)
        self._lock = threading.Lock()
        self._current: tuple[str, StopRequest] | None = None
        self._serves = False
        self._cannot_serve: PlaitError | None = None
        self.channel = open_channel(serving, clients=_CLIENTS_WITHOUT_KIT, stays=True, more=calls_of(self))

    def serve(self) -> None:
        """Serve runs until an exception in this thread."""
        try:
            # A run that a killed server was serving begins before any node is admitted: one that heard of no run would
            # take it to be over.
            if (left := self._queue.running()) is not None:
                self._serve(left)
            self._start()
            while True:
                self.channel.check()
                if (entry := self._queue.begin_next(wait_s=_LOOK_S)) is not None:
                    self._serve(entry)
        finally:
            self.channel.stop()
            self._queue.close()

    def _start(self) -> None:
        if self._serves:
            return
        try:
            self.channel.start()
        except PlaitError as error:
            self._cannot_serve = error
            raise
        self._serves = True
        say(f"serving on {self.channel.address}; runs come from `plait submit`", quiet=self._quiet)

    def submit(self, config_json: str, *, priority: int = 0, name: str = "") -> str:
        """Put a run into the queue; returns its name. ConfigError, in one line, for settings that no run can have."""
        config = self._checked(config_json)
        entry = self._queue.submit(config.to_table(), number=new_run_number(), priority=priority, name=name)
        say(f"run {entry.run} was submitted", quiet=self._quiet)
        return entry.run

    def cancel(self, run: str) -> str:
        """Cancel a run; returns the state that it was in. ConfigError: there is no such run, or it is over."""
        with self._lock:
            was = self._queue.cancel(run)
            if self._current is not None and self._current[0] == run:
                self._current[1].asked = True
        say(f"run {run} was cancelled", quiet=self._quiet)
        return was.value

    def runs_json(self) -> str:
        """What `plait runs --json` prints: the newest runs in the order of their submission."""
        return json.dumps({"runs": [_described(entry) for entry in self._queue.entries()[-_MOST_LISTED:]]})

    def files(self, run: str) -> Sequence[tuple[str, Path]]:
        """The files of a run that is over, with their places. ConfigError: there is no such run, or it is not over."""
        entry = self._queue.entry(run)
        if not entry.is_over:
            raise ConfigError(f"run '{run}' is {entry.state}; its files are here once it is over")
        folder = self._queue.folder(run)
        found = [folder / name for name in _PUBLIC]
        if entry.state is State.FINISHED:
            found += [*sorted(folder.glob("*.png")), *sorted((folder / "adapter").glob("*"))]
        return [(path.relative_to(folder).as_posix(), path) for path in found if path.is_file()]

    def _checked(self, config_json: str) -> RunConfig:
        if (size := len(config_json)) > _MOST_CONFIG_CHARACTERS:
            raise ConfigError(f"settings have {size} characters; at most {_MOST_CONFIG_CHARACTERS} are accepted")
        try:
            table = cast("dict[str, Scalar]", json_object(config_json, what="text of the settings"))
        except PeerError as error:
            raise ConfigError(str(error)) from error
        config = _naming_nothing({**table, "out": ""}, where="submitted settings")
        settled = settle(config)
        if self._serving.kit_directory is None:
            check_vouched_for(settled)
            return config
        registered = Register.load(self._serving.kit_directory).number_of_clients
        if config.clients > registered:
            raise ConfigError(
                f"run asks for {config.clients} clients, but {registered} are provisioned; set clients to that at most"
            )
        return config

    def _serve(self, entry: Entry) -> None:
        stop = StopRequest()
        with self._lock:
            self._current = (entry.run, stop)
        say(f"run {entry.run} begins", quiet=self._quiet)
        patience = _Patience(self._give_up_s, stop)
        try:
            self._drive(entry, stop, patience.hear)
            self._queue.end(entry.run, State.FINISHED)
        except RunInterrupted:
            if not stop.asked:
                raise
            if patience.reason:
                self._queue.end(entry.run, State.FAILED, patience.reason)
        except PlaitError as error:
            # A port that is taken is no fault of the run, which goes on with the next start.
            if error is self._cannot_serve or isinstance(error, DiskFullError):
                raise
            self._queue.end(entry.run, State.FAILED, str(error))
        except Exception as error:
            # A fault in one run must not end the federation.
            logging.getLogger("plait.server").exception("run %s failed", entry.run)
            self._queue.end(entry.run, State.FAILED, f"{type(error).__name__}; see the server's log")
        finally:
            patience.close()
            with self._lock:
                self._current = None
        # Only now: the nodes of a run that is merely interrupted must not take it to be over.
        self.channel.end()
        ended = self._queue.entry(entry.run)
        say(f"run {entry.run} is {ended.state}{f': {ended.detail}' if ended.detail else ''}", quiet=self._quiet)

    def _drive(self, entry: Entry, stop: StopRequest, on_event: Callable[[Event], None]) -> None:
        directory = RunDirectory(self._queue.folder(entry.run))
        ended = directory.has_started and RunView.after(read_events(directory.ledger)).finished
        if ended and is_reported(directory.path):
            return  # the server was killed before it could record that
        settings = _naming_nothing({**entry.config, "out": str(directory.path)}, where=f"run {entry.run}")
        serving = replace(self._serving, run_number=entry.number)
        served = open_served_run(
            directory, settings, serving, channel=self.channel, on_event=on_event, stop=stop, quiet=self._quiet
        )
        if served is not None:
            self._start()
            served.work(self._until_over())

    @contextmanager
    def _until_over(self) -> Generator[None]:
        """The nodes of a run that is over do not wait for its report."""
        yield
        self.channel.end()


def calls_of(desk: RunQueueServer) -> MoreCalls:
    """The gRPC calls of an operator, which a server decides."""

    def served(disk: Executor) -> grpc.GenericRpcHandler:
        def unary(asked: type[Message], reply: Callable[[Any], Message]) -> "grpc.RpcMethodHandler[Any, Any]":
            async def answer(request: Message, context: Context) -> Message:
                return await _answer(disk, partial(reply, request), context)

            return grpc.unary_unary_rpc_method_handler(answer, asked.FromString, methodcaller("SerializeToString"))

        handlers = {
            "Submit": unary(
                pb.SubmitRequest,
                lambda asked: pb.SubmitReply(
                    run=desk.submit(asked.config_json, priority=asked.priority, name=asked.name)
                ),
            ),
            "Cancel": unary(pb.CancelRequest, lambda request: pb.CancelReply(was=desk.cancel(request.run))),
            "Runs": unary(pb.RunsRequest, lambda _: pb.RunsReply(json=desk.runs_json())),
            "Fetch": grpc.unary_stream_rpc_method_handler(
                partial(_fetch, desk, disk), pb.FetchRequest.FromString, pb.FilePart.SerializeToString
            ),
        }
        return grpc.method_handlers_generic_handler(pb.DESCRIPTOR.services_by_name["Operations"].full_name, handlers)

    return served


async def _fetch(desk: RunQueueServer, disk: Executor, request: pb.FetchRequest, context: Context) -> None:
    for place, path in await _answer(disk, lambda: desk.files(request.run), context):
        try:
            with path.open("rb") as file:
                await context.write(pb.FilePart(path=place))
                # Read beside the event loop, which serves a run meanwhile.
                while data := await asyncio.get_running_loop().run_in_executor(disk, file.read, CHUNK_BYTES):
                    await context.write(pb.FilePart(path=place, data=data))
        except OSError as error:
            await context.abort(grpc.StatusCode.INTERNAL, f"server cannot read '{place}': {error.strerror}")


async def _answer(disk: Executor, question: Callable[[], Result], context: Context) -> Result:
    try:
        return await asyncio.get_running_loop().run_in_executor(disk, question)
    except PlaitError as error:
        ours = isinstance(error, ConfigError | PolicyError)
        code = grpc.StatusCode.INVALID_ARGUMENT if ours else grpc.StatusCode.FAILED_PRECONDITION
        await context.abort(code, str(error)[:_MOST_DETAIL])


def _described(entry: Entry) -> Mapping[str, object]:
    config = {key: entry.config.get(key) for key in _SHOWN}
    shown = {key: value[:_MOST_SHOWN] if isinstance(value, str) else value for key, value in config.items()}
    return {key: value for key, value in asdict(entry).items() if key not in ("place", "number", "config")} | shown


def _naming_nothing(table: dict[str, Scalar], *, where: str) -> RunConfig:
    """Settings without those of clients, which a simulation's file names; the queue may be another's, too."""
    config = config_from_table(table, where=where).model_copy(update=dict.fromkeys(CLIENTS_SETTINGS, ""))
    for key in _OF_THE_MACHINE:
        if getattr(config, key) not in ("", "none"):
            name = key.replace("_", "-")
            raise ConfigError(f"a submitted run must not have {name}: it names files or code of a machine")
    return config


class _Patience:
    """Ends a run whose connected clients cannot take part, so that the queue goes on; not one that waits for some."""

    def __init__(self, seconds: float, stop: StopRequest) -> None:
        self._seconds, self._stop = seconds, stop
        self._timer = threading.Timer(0, self.close)
        self._why: dict[str, str] = {}
        self.reason = ""

    def hear(self, event: Event) -> None:
        if isinstance(event, ClientTurnedAway):
            self._why[event.client] = event.detail or event.reason
        elif isinstance(event, RoundStarted):
            self.close()
            self._seconds = math.inf
        elif isinstance(event, WaitingForClients):
            self.close()
            if event.unfit and event.here - event.unfit < event.wanted and self._seconds < math.inf:
                what = f"{event.unfit} of {event.here} connected clients cannot take part, {event.wanted} must"
                self._timer = threading.Timer(self._seconds, self._give_up, (what,))
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        self._timer.cancel()

    def _give_up(self, what: str) -> None:
        why = "; ".join(f"{client}: {detail}" for client, detail in list(self._why.items())[:_MOST_NAMED])
        self.reason = f"{what}: {why}"
        self._stop.asked = True


def server(
    listen: Listen = "127.0.0.1:9440",
    kit: Kit = None,
    insecure: Insecure = False,
    out: Annotated[Path, typer.Option(help="Directory of the queue and of all runs.")] = Path("federation"),
    metrics: Metrics = "",
    grace_s: GraceS = 30.0,
    give_up_s: Annotated[
        float, typer.Option(help="Seconds until a run is ended whose clients cannot take part.", min=0.1)
    ] = 120.0,
) -> None:
    """Stay between runs; an operator submits them, with their settings, by `plait submit`.

    To continue after a stop or a crash, give the same command again.

    Example: plait server --stay --kit fed/server --listen 0.0.0.0:9440 --out federation
    """
    serving = Serving.of({"listen": listen, "kit": kit, "insecure": insecure, "metrics": metrics, "grace_s": grace_s})
    share_memory_between_threads()
    standing = RunQueueServer(out, serving, give_up_s=give_up_s)
    log_to(out / "server.log")
    stop_on_signals("the same command")
    standing.serve()

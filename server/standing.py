"""A standing server: runs that an operator submits, served one after the other to clients that stay too.

Each run is served exactly as ``plait server`` serves its one (`server.served_run`), in a directory of its own. The
queue is on disk (`run_queue`), so a killed server continues the run that it served. Sets no signal handler and
configures no logging: both are the caller's.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc

from plait.api.resuming import is_reported
from plait.api.serving import CLIENTS_SETTINGS, Serving, conclude, new_run_number, vouch_of
from plait.apps import bind_apps
from plait.config import RunConfig, Scalar, config_from_table
from plait.errors import ConfigError, DiskFullError, Interrupted, PeerError, PlaitError, PolicyError
from plait.progress import say
from plait.rounds.channel import StopRequest
from plait.rounds.events import ClientTurnedAway, Event, RoundStarted, WaitingForClients
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_view import RunView
from plait.transport.json_object import json_object
from plait.transport.protocol import CHUNK_BYTES
from plait.v1 import federation_pb2 as pb
from server.run_queue import Entry, RunQueue, State

if TYPE_CHECKING:
    from server.guard import Context, MoreCalls
    from server.nodes_channel import NodesChannel

_LOOK_S = 0.5
_MOST_LISTED = 100
_MOST_NAMED = 3
_MOST_DETAIL = 1000
_MOST_CONFIG_CHARACTERS = 16384
_MOST_SHOWN = 200  # characters of a value in a list
_SHOWN = ("base", "method", "rule", "wire", "rounds", "clients")
_CLIENTS_WITHOUT_KIT = 64
_OF_THE_MACHINE = ("publish", "callbacks", "fleet", "init_adapter", *CLIENTS_SETTINGS)
"""Settings that name files or code of the machine that reads them."""
_PUBLIC = ("config.toml", "ledger.jsonl", "summary.json", "report.html")
"""Files of a run directory that are fetched; the plots and the adapter join them once the run is finished.

`OperatorCalls` takes no others.
"""
Result = TypeVar("Result")


class Standing:
    """A standing server.

    Args:
        give_up_s: seconds after which a run ends whose connected clients cannot take part.

    Raises:
        PlaitError: another server has the directory, its queue is damaged, or it cannot serve.
    """

    def __init__(self, directory: Path, serving: Serving, *, give_up_s: float = 120.0, quiet: bool = False) -> None:
        bind_apps()
        from server.served_run import open_channel

        self._serving, self._give_up_s, self._quiet = serving, give_up_s, quiet
        self._queue = RunQueue(directory)
        self._lock = threading.Lock()
        self._current: tuple[str, StopRequest] | None = None
        self._serves = False
        self._cannot_serve: PlaitError | None = None
        self._on_start: Callable[[str], None] = lambda _: None
        self.channel: NodesChannel = open_channel(
            serving, clients=_CLIENTS_WITHOUT_KIT, stays=True, more=calls_of(self)
        )

    def serve(self, *, on_start: Callable[[str], None] = lambda _: None) -> None:
        """Serve runs until an exception in this thread."""
        self._on_start = on_start
        try:
            # A run that a killed server was serving begins before any node is admitted: one that heard of no run would
            # take it to be over.
            if (left := self._queue.running()) is not None:
                self._serve(left)
            self._start()
            while True:
                self.channel.check()
                entry = self._queue.begin_next(wait_s=_LOOK_S)
                if entry is not None:
                    self._serve(entry)
        finally:
            self.channel.stop()
            self._queue.close()

    def _start(self) -> None:
        if not self._serves:
            try:
                self.channel.start()
            except PlaitError as error:
                self._cannot_serve = error
                raise
            self._serves = True
            self._on_start(self.channel.address)

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
            raise ConfigError(f"run '{run}' is {entry.state}, expected one that is over; `plait submit --wait` waits")
        folder = self._queue.folder(run)
        found = [folder / name for name in _PUBLIC]
        if entry.state is State.FINISHED:
            found += [*sorted(folder.glob("*.png")), *sorted((folder / "adapter").glob("*"))]
        return [(path.relative_to(folder).as_posix(), path) for path in found if path.is_file()]

    def _checked(self, config_json: str) -> RunConfig:
        from plait.federation import check_vouched_for
        from plait.settle import settle

        if len(config_json) > _MOST_CONFIG_CHARACTERS:
            raise ConfigError(
                f"settings have {len(config_json)} characters, expected at most {_MOST_CONFIG_CHARACTERS}"
            )
        try:
            table = cast("dict[str, Scalar]", json_object(config_json, what="text of the settings"))
        except PeerError as error:
            raise ConfigError(str(error)) from error
        config = _naming_nothing({**table, "out": ""}, where="submitted settings")
        settled = settle(config)
        if vouch_of(self._serving) is None:
            check_vouched_for(settled)
        if self._serving.kit_directory is not None:
            from plait.trust.register import Register

            registered = Register.load(self._serving.kit_directory).number_of_clients
            if config.clients > registered:
                raise ConfigError(
                    f"run asks for {config.clients} clients, but {registered} are provisioned; set clients to that at "
                    "most"
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
        except Interrupted:
            if not stop.asked:
                raise
            if patience.reason:
                self._queue.end(entry.run, State.FAILED, patience.reason)
        except DiskFullError:
            raise
        except PlaitError as error:
            if error is self._cannot_serve:
                raise  # a port that is taken is no fault of the run, which goes on with the next start
            self._queue.end(entry.run, State.FAILED, str(error))
        except Exception as error:
            # A fault in one run must not end the federation.
            logging.getLogger("plait.server").exception("run %s failed", entry.run)
            self._queue.end(entry.run, State.FAILED, f"{type(error).__name__}; the server's log says more")
        finally:
            patience.close()
            with self._lock:
                self._current = None
        # Only now: the nodes of a run that is merely interrupted must not take it to be over.
        self.channel.end()
        ended = self._queue.entry(entry.run)
        say(f"run {entry.run} is {ended.state}{f': {ended.detail}' if ended.detail else ''}", quiet=self._quiet)

    def _drive(self, entry: Entry, stop: StopRequest, on_event: Callable[[Event], None]) -> None:
        from server.served_run import open_served_run

        directory = RunDirectory(self._queue.folder(entry.run))
        if (
            directory.has_started
            and RunView.after(read_events(directory.ledger)).finished
            and is_reported(directory.path)
        ):
            return  # the server was killed before it could say so
        settings = _naming_nothing({**entry.config, "out": str(directory.path)}, where=f"run {entry.run}")
        served = open_served_run(
            directory,
            settings,
            replace(self._serving, run_number=entry.number),
            channel=self.channel,
            on_event=on_event,
            stop=stop,
            quiet=self._quiet,
        )
        if served is None:
            conclude(directory)
            return
        self._start()
        with served.followed(quiet=self._quiet):
            served.drive(quiet=self._quiet)
            self.channel.end()
            conclude(directory)


def calls_of(desk: Standing) -> MoreCalls:
    """The gRPC calls of an operator, which a server decides."""
    from server.guard import MoreCalls

    def handlers(disk: Executor) -> Mapping[str, grpc.RpcMethodHandler[Any, Any]]:
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler

        async def submit(said: pb.SubmitRequest, context: Context) -> pb.SubmitReply:
            ask = partial(desk.submit, said.config_json, priority=said.priority, name=said.name)
            return pb.SubmitReply(run=await _answer(disk, ask, context))

        async def cancel(said: pb.CancelRequest, context: Context) -> pb.CancelReply:
            return pb.CancelReply(was=await _answer(disk, partial(desk.cancel, said.run), context))

        async def runs(_: pb.RunsRequest, context: Context) -> pb.RunsReply:
            return pb.RunsReply(json=await _answer(disk, desk.runs_json, context))

        return {
            "Submit": unary(submit, pb.SubmitRequest.FromString, pb.SubmitReply.SerializeToString),
            "Cancel": unary(cancel, pb.CancelRequest.FromString, pb.CancelReply.SerializeToString),
            "Runs": unary(runs, pb.RunsRequest.FromString, pb.RunsReply.SerializeToString),
            "Fetch": stream(partial(_fetch, desk, disk), pb.FetchRequest.FromString, pb.FilePart.SerializeToString),
        }

    return MoreCalls(pb.DESCRIPTOR.services_by_name["Operations"].full_name, handlers)


async def _fetch(desk: Standing, disk: Executor, request: pb.FetchRequest, context: Context) -> None:
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


def _described(entry: Entry) -> dict[str, object]:
    config = {key: entry.config.get(key) for key in _SHOWN}
    shown = {key: value[:_MOST_SHOWN] if isinstance(value, str) else value for key, value in config.items()}
    return {**{key: value for key, value in asdict(entry).items() if key not in ("place", "number", "config")}, **shown}


def _naming_nothing(table: dict[str, Scalar], *, where: str) -> RunConfig:
    """Settings without those of clients, which a simulation's file names; the queue may be another's, too."""
    config = config_from_table(table, where=where).model_copy(update=dict.fromkeys(CLIENTS_SETTINGS, ""))
    for key in _OF_THE_MACHINE:
        if getattr(config, key) not in ("", "none"):
            name = key.replace("_", "-")
            raise ConfigError(f"{name} is given, expected none in a submitted run: it names files or code of a machine")
    return config


class _Patience:
    """Ends a run whose connected clients cannot take part, so that the queue goes on; not one that waits for some."""

    def __init__(self, seconds: float, stop: StopRequest) -> None:
        self._seconds, self._stop = seconds, stop
        self._timer = threading.Timer(0, self.close)
        self._why: dict[str, str] = {}
        self.reason = ""

    def hear(self, event: Event) -> None:
        """Notice an event of the run."""
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
        """Stop waiting."""
        self._timer.cancel()

    def _give_up(self, what: str) -> None:
        why = "; ".join(f"{client}: {detail}" for client, detail in list(self._why.items())[:_MOST_NAMED])
        self.reason = f"{what}: {why}"
        self._stop.asked = True

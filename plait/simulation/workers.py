"""The clients of a simulated run, spread over processes: one for every entry of a list of devices.

A client belongs to one process, by its number, with its data and its state between tasks. Answers come in the order of
the tasks, not of arrival: the ledger is that of one device. A process that dies is started again and its task repeated.
What of its clients' state only memory had is lost, as a network's clients lose it: they are sent the whole adapter.
"""

import json
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import cast

from pydantic import TypeAdapter

from plait import errors
from plait.config import Scalar, config_from_table
from plait.errors import ConfigError, MachineError, PlaitError, RunInterrupted, machine_fault
from plait.plugins import is_importable
from plait.rounds.channel import Data, Exchange, FixedNodes, NoAnswer, Purpose, StopRequest, TaskParts
from plait.run import Run
from plait.settings.choice import parse_choice
from plait.simulation.partition import ClientShare
from plait.system.child import Child, ChildMessage
from plait.training.device import Compute, shares, use_threads
from plait.wire.welcome import welcome_table

_STARTS = 3
"""How often a process is started for one task before the run ends."""
_LOOK_S = 0.2
"""How often a process that waits for others looks whether it is to stop."""
_ENDS_S = 5.0
"""How long a process may take to end after its last word."""


Answer = bytes | NoAnswer


def check_importable(run: Run) -> None:
    """Refuse parts of the user's own that other processes would not find."""
    for kind, text in config_from_table(_announced(run), where="the run's settings").parts:
        if text and not is_importable(kind, parse_choice(text)[0]):
            raise ConfigError(
                f"{kind} is '{text}' and device is '{run.config.device}', expected a part in a module of its own, "
                "which the processes for the devices can import"
            )


class Workers(FixedNodes):
    """A `plait.rounds.channel.Channel` to clients in other processes; a stopped run does again what they are at.

    Each process starts with its first task, and `progress` gets a line for every one that dies.
    """

    def __init__(
        self,
        run: Run,
        clients: Sequence[ClientShare] | Mapping[int, ClientShare],
        *,
        stop: StopRequest | None,
        progress: Callable[[str], None],
    ) -> None:
        super().__init__(run.config.clients, stop=stop)
        self._run = run
        self._clients = clients
        self._progress = progress

    def exchange(self, purpose: Purpose, group: str) -> "WorkersExchange":
        """Begin to send tasks."""
        del purpose, group
        return WorkersExchange(self)

    def give(self, node: int, task: TaskParts) -> Future[Answer]:
        """Let the client's process do a task, once it has done those before."""
        return self._all[node % len(self._all)].give(node, task)

    def close(self) -> None:
        """End the processes."""
        if "_all" not in self.__dict__:
            return
        for worker in self._all:
            worker.close()
        del self._all

    @cached_property
    def _all(self) -> "Sequence[_Worker]":
        devices = self._run.devices
        found = list[_Worker]()
        for place, (compute, parts) in enumerate(zip(devices, shares(devices), strict=True)):
            begin = partial(self._beginning, place, compute, parts)
            name = f"worker {place + 1} of {len(devices)} ({compute.device})"
            found.append(_Worker(name, begin, self._progress))
        return found

    def _beginning(self, place: int, compute: Compute, parts: int) -> tuple[dict[str, object], bytes]:
        """The first message to a process."""
        run, count = self._run, len(self._run.devices)
        config = {
            **_announced(run),
            "out": str(Path(run.config.out).absolute()),
            "device": str(compute.device),
            "dtype": compute.dtype_name,
            "threads": use_threads(run.config.threads, processes=count),
        }
        base = {
            "directory": str(run.base.directory.absolute()),
            "name": run.base.reference.name,
            "fingerprint": run.base.reference.fingerprint,
        }
        clients = {index: asdict(self._clients[index]) for index in range(place, run.config.clients, count)}
        return {"config": config, "base": base, "parts": parts}, json.dumps(clients).encode()


def _announced(run: Run) -> dict[str, Scalar]:
    """The settings that processes get: those that clients of a network get, and what decides on slopes."""
    return {**welcome_table(run.settled.announced), "server-optimizer": run.config.server_optimizer}


class _Worker:
    """One process, and the thread that exchanges messages with it; `begin` makes the first one."""

    def __init__(
        self, name: str, begin: Callable[[], tuple[Mapping[str, object], bytes]], progress: Callable[[str], None]
    ) -> None:
        self._name = name
        self._begin = begin
        self._progress = progress
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._has_begun = self._is_closed = False
        self._thread = ThreadPoolExecutor(1)

    def give(self, node: int, task: TaskParts) -> Future[Answer]:
        return self._thread.submit(self._answer, node, task)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._child:
                self._child.kill()
        self._thread.shutdown(cancel_futures=True)
        if self._child:
            self._ended()

    def _answer(self, node: int, task: TaskParts) -> Answer:
        ending = ""
        for _ in range(_STARTS):
            if ending and not self._is_closed:
                self._progress(f"{self._name} {ending}; it starts again, and its clients are sent the whole adapter")
            child = self._ready()
            if child:
                # Joined only now: most of a task is shared by all clients of a round.
                child.send({"node": node}, b"".join(task))
                if message := _receive(child):
                    detail = cast("str | None", message.fields["silent"])
                    return message.parts[0] if detail is None else NoAnswer(detail)
            ending = self._ended()
        raise MachineError(
            f"{self._name} {ending} at one task, {_STARTS} times: free memory or name fewer devices, then continue "
            f"with `plait resume`"
        )

    def _ready(self) -> Child | None:
        """The process, which knows the run; None if it ended before that."""
        with self._lock:
            if self._is_closed:
                raise RunInterrupted("the run has ended")
            child = self._child = self._child or Child("plait.simulation.worker")
        if not self._has_begun:
            fields, data = self._begin()
            child.send(fields, data)
            if _receive(child) is None:
                return None
            self._has_begun = True
        return child

    def _ended(self) -> str:
        """End the process, if it has not ended; how it has."""
        with self._lock:
            child, self._child, self._has_begun = self._child, None, False
        if child is None:
            return ""
        child.kill(after_s=_ENDS_S)
        return child.ending()


def _receive(child: Child) -> ChildMessage | None:
    """The next message of a process, which is no error; None if it has ended."""
    message = child.receive()
    if message and "error" in message.fields:
        raise error_from(message.fields)
    return message


class WorkersExchange(Exchange):
    """An exchange with clients in other processes."""

    def __init__(self, channel: Workers) -> None:
        self._channel = channel
        self._asked: list[tuple[int, Future[Answer]]] = []

    def __exit__(self, *_: object) -> None:
        for _node, answer in self._asked:
            answer.cancel()
        self._asked.clear()

    def send(self, node: int, task: TaskParts, group: str = "") -> None:
        """Give a task to the client's process."""
        del group
        self._asked.append((node, self._channel.give(node, task)))

    def withdraw(self, node: int, reason: str) -> None:
        """Stop waiting for a node's answer."""
        del reason
        for asked, answer in self._asked:
            if asked == node:
                answer.cancel()
        self._asked = [each for each in self._asked if each[0] != node]

    def receive(self, timeout_s: float | None) -> tuple[int, Data | NoAnswer] | None:
        """The next answer, in the order of the tasks; waits for it as long as it takes, as one process would."""
        del timeout_s
        if not self._asked:
            return None
        node, answer = self._asked[0]
        while not answer.done():
            self._channel.stop.check()
            wait([answer], _LOOK_S)
        self._channel.stop.check()
        del self._asked[0]
        return node, answer.result()


def error_fields(error: Exception) -> dict[str, str]:
    """An error as a message; the inverse of `error_from`."""
    error = machine_fault(error) or error
    if isinstance(error, PlaitError):
        return {"error": type(error).__name__, "text": str(error)}
    return {"error": "", "text": "".join(traceback.format_exception(error))}


def error_from(fields: Mapping[str, object]) -> Exception:
    """The error of a message."""
    kind, text = getattr(errors, str(fields["error"]), None), str(fields["text"])
    if isinstance(kind, type) and issubclass(kind, PlaitError):
        return kind(text)
    *trace, last = text.strip().splitlines()
    error = MachineError(f"a worker failed: {last}")
    error.add_note("\n".join(trace))
    return error


_SHARES = TypeAdapter(Mapping[int, ClientShare])


def shares_from_bytes(data: bytes) -> Mapping[int, ClientShare]:
    """The data of some clients by their numbers, as another process sent them."""
    # Not its own reading of JSON, which refuses text with lone surrogates.
    return _SHARES.validate_python(json.loads(data))

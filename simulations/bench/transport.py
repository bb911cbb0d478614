"""``plait bench transport``: what plait's gRPC costs between server and nodes, compared with alternatives.

Everything runs on this machine over loopback: the server in this process, every resident node in a separate one. Each
way does the same number of rounds, in turns, after one that does not count. Does not know plait's server and nodes: the
caller says how they are started.
"""

from __future__ import annotations

import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from plait.errors import MachineError
from plait.report.table import Table
from plait.rounds.channel import Channel, NoAnswer, Purpose
from plait.trust.kit import ServerKit
from plait.trust.provision import provision
from plait.wire.canonical import are_equal
from simulations.bench.row import Row
from simulations.bench.transport_light import LightRawServer
from simulations.bench.transport_raw import RawServer

_START_S = 120.0
_END_S = 20.0
_LOOK_S = 0.5
_TASK = b"nothing"
_NODES = ("north", "south")


@dataclass(frozen=True)
class Serving:
    """A running server of plait.

    Attributes:
        address: host and port.
        channel: reaches its nodes.
    """

    address: str
    channel: Channel


Serve = Callable[[Path, ServerKit | None, int], AbstractContextManager[Serving]]
"""Starts plait's server: a directory for answers, its kit (None for no TLS), the largest answer in bytes."""

EchoCommand = Callable[[str, str, Path, Path | None], Sequence[str]]
"""The command of a resident node that answers with the task's own body: server, name, state directory, kit."""


class Attended(Protocol):
    """A server of nodes."""

    def wait_for_nodes(self, timeout_s: float) -> bool:
        """Whether all nodes connected in time."""
        ...


RoundOf = Callable[[bytes], None]
"""Sends all nodes a body and waits until each has sent it back."""


@dataclass(frozen=True)
class Times:
    """The durations of one way's rounds.

    Attributes:
        seconds: of each round, in their order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        return f"{_shown(self.median)} ({_shown(min(self.seconds))} to {_shown(max(self.seconds))})"


@dataclass(frozen=True)
class Compared:
    """The same rounds, done in several ways.

    Attributes:
        what: description of the rounds.
        ours: plait's times.
        peers: those of alternatives.
    """

    what: str
    ours: Times
    peers: Mapping[str, Times]

    def rows(self) -> Iterator[Row]:
        """All rows."""
        picks: dict[str, Callable[[Times], float]] = {
            "median": lambda times: times.median,
            "fastest": lambda times: min(times.seconds),
            "slowest": lambda times: max(times.seconds),
        }
        for name, pick in picks.items():
            peers = {peer: pick(times) for peer, times in self.peers.items()}
            yield Row(f"{self.what}: {name}", pick(self.ours), "s", peers)

    def cells(self) -> Iterator[tuple[str, str, str, str]]:
        """Table rows for people: description, way, duration, multiple of plait's time."""
        for name, times in {"plait": self.ours, **self.peers}.items():
            ratio = f"{times.median / self.ours.median:.2f}" if times is not self.ours else ""
            yield (self.what if times is self.ours else "", name, str(times), ratio)


def table_of(compared: Sequence[Compared]) -> Table:
    """All comparisons, for people."""
    rows = tuple(row for each in compared for row in each.cells())
    note = "A round's median (fastest to slowest), in turns. Times plait: more than 1 is slower than plait."
    return Table("Transport", ("", "", "a round", "times plait"), rows, note)


def compare_resident(
    serve: Serve,
    echo: EchoCommand,
    *,
    body_bytes: int,
    rounds: int,
    environment: Mapping[str, str],
) -> tuple[Compared, Compared]:
    """Two resident nodes: rounds with almost nothing in them, then rounds that carry a body down and up.

    Args:
        body_bytes: of the body, per direction and node.
        rounds: number of rounds of each kind.

    Raises:
        MachineError: a process does not start, or ends before its time.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plait-bench-")))
        server_kit, kits = _kits(folder / "kits")
        processes = stack.enter_context(_processes(environment))

        serving = stack.enter_context(serve(folder / "inbox", server_kit, body_bytes + (1 << 20)))
        for name in _NODES:
            processes.start(echo(serving.address, name, folder / "state", kits[name]))
        raw = stack.enter_context(RawServer(len(_NODES), server_kit))
        for name in _NODES:
            processes.start(_module("transport_raw", raw.address, str(kits[name])))
        ours = ChannelRounds(serving.channel, len(_NODES))
        processes.wait_for(ours, raw)
        ways: dict[str, RoundOf] = {"plait": ours.round, "grpcio": raw.round}
        megabytes = f"{body_bytes / 1e6:g} MB down and up"
        small = _in_turns(ways, lambda: _TASK, rounds=4 * rounds)
        large = _in_turns(ways, lambda: secrets.token_bytes(body_bytes), rounds=rounds)
        return (
            _compared(f"no-op round, {len(_NODES)} nodes, TLS", small),
            _compared(f"{megabytes}, {len(_NODES)} nodes, TLS", large),
        )


def compare_light(serve: Serve, *, nodes: int, rounds: int, environment: Mapping[str, str]) -> Compared:
    """Many light nodes, without TLS: rounds with almost nothing in them.

    Raises:
        MachineError: a process does not start, or ends before its time.
        PeerError: a node did not answer.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plait-bench-")))
        processes = stack.enter_context(_processes(environment))
        serving = stack.enter_context(serve(folder / "inbox", None, 1 << 20))
        processes.start(_module("transport_light", "plait", serving.address, str(nodes)))
        raw = stack.enter_context(LightRawServer(nodes))
        processes.start(_module("transport_light", "raw", raw.address, str(nodes)))
        ours = ChannelRounds(serving.channel, nodes)
        processes.wait_for(ours, raw)
        ways: dict[str, RoundOf] = {"plait": ours.round, "grpcio": raw.round}
        return _compared(f"no-op round, {nodes:,} light nodes", _in_turns(ways, lambda: _TASK, rounds=rounds))


class ChannelRounds:
    """Rounds over plait's own channel, as the coordinator does them.

    Args:
        channel: reaches the nodes.
        nodes: number of nodes; `round` sends to all of them.
    """

    def __init__(self, channel: Channel, nodes: int) -> None:
        self._channel = channel
        self._nodes = nodes
        self._number = 0

    def wait_for_nodes(self, timeout_s: float) -> bool:
        """Whether all nodes connected in time."""
        end = time.monotonic() + timeout_s
        while len(self._channel.nodes(0)) < self._nodes and time.monotonic() < end:
            self._channel.wait(max(0.0, end - time.monotonic()))
        return len(self._channel.nodes(0)) >= self._nodes

    def round(self, body: bytes) -> None:
        """Send all nodes a body and wait until each has returned it.

        Raises:
            MachineError: a node did not answer, or not with the body.
        """
        self._number += 1
        nodes = self._channel.nodes(0)
        if len(nodes) != self._nodes:
            raise MachineError(f"{len(nodes)} nodes are there, expected {self._nodes}")
        with self._channel.exchange(Purpose.TRAIN, str(self._number)) as exchange:
            for node in nodes:
                exchange.send(node, (_TASK, b"" if body == _TASK else body))
            for _ in nodes:
                received = exchange.receive(_START_S)
                if received is None:
                    raise MachineError(f"no answer came within {_START_S:.0f} s")
                answer = received[1]
                if isinstance(answer, NoAnswer):
                    raise MachineError(f"a node did not answer: {answer.detail}")
                if not are_equal(body, answer):
                    raise MachineError(
                        f"a node answered with {len(answer)} bytes, expected the {len(body)} it was sent"
                    )


def _in_turns(ways: Mapping[str, RoundOf], body: Callable[[], bytes], *, rounds: int) -> dict[str, Times]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        # The first way has the colder caches.
        for name in list(ways) if number % 2 else list(ways)[::-1]:
            # A separate body for every round, as with adapters: nodes keep what they have fetched.
            data = body()
            started = time.perf_counter()
            ways[name](data)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: Times(tuple(each)) for name, each in seconds.items()}


def _compared(what: str, times: Mapping[str, Times]) -> Compared:
    return Compared(what, times["plait"], {name: each for name, each in times.items() if name != "plait"})


def _kits(directory: Path) -> tuple[ServerKit, dict[str, Path | None]]:
    provision(directory, _NODES, ["127.0.0.1", "localhost"], now=datetime.now(UTC))
    return ServerKit.load(directory / "server"), {name: directory / "clients" / name for name in _NODES}


def _module(name: str, *arguments: str) -> Sequence[str]:
    return (sys.executable, "-m", f"simulations.bench.{name}", *arguments)


class Processes:
    """Processes that end with the block; see `_processes`.

    Args:
        environment: theirs.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start one."""
        process = subprocess.Popen(command, env=self._environment)
        self._running.append(process)
        return process

    def wait_for(self, *servers: Attended) -> None:
        """Wait until the nodes of all these servers are connected.

        Raises:
            MachineError: they do not come, or end before that.
        """
        end = time.monotonic() + _START_S
        for server in servers:
            while not server.wait_for_nodes(_LOOK_S):
                ended = [process.args for process in self._running if process.poll() is not None]
                if ended:
                    raise MachineError(f"a process ended before its time: {ended[0]}")
                if time.monotonic() > end:
                    raise MachineError(f"nodes did not come within {_START_S:.0f} s")

    def end(self) -> None:
        """Wait briefly for them."""
        for process in self._running:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _processes(environment: Mapping[str, str]) -> Generator[Processes]:
    # Entered before the servers, so that these release their nodes first.
    processes = Processes(environment)
    try:
        yield processes
    finally:
        processes.end()


def _shown(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"

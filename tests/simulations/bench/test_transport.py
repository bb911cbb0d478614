"""The whole benchmark, small: it measures, whatever the figures are."""

import json

import pytest

from plait.errors import MachineError
from plait.rounds.channel import NoAnswer
from plait.rounds.clock import WallClock
from simulations.bench.transport import ChannelRounds, Compared, Times
from simulations.bench.transport_raw import frames, receive
from tests.commands import run_command

KEYS = {"row", "value", "unit", "peers", "limit", "ratio_to_best_peer", "ratio_to_limit"}


def bench(*options: str) -> list[dict]:
    done = run_command("bench", "transport", "--json", "--rounds", "1", *options, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_resident_nodes_over_tls_and_light_ones_are_measured_beside_grpc():
    rows = bench("--megabytes", "3", "--light-clients", "20")

    assert [row["row"] for row in rows if row["row"].endswith("median")] == [
        "no-op round, 2 nodes, TLS: median",
        "3 MB down and up, 2 nodes, TLS: median",
        "no-op round, 20 light nodes: median",
    ]
    for row in rows:
        assert set(row) == KEYS
        assert list(row["peers"]) == ["grpcio"]
        assert row["ratio_to_best_peer"] == pytest.approx(row["peers"]["grpcio"] / row["value"])


@pytest.mark.slow
def test_without_tls_it_says_so():
    assert bench("--megabytes", "0.1", "--light-clients", "0", "--insecure")[0]["row"] == "no-op round, 2 nodes: median"


def test_rows_are_the_median_and_both_ends():
    compared = Compared("w", Times((3.0, 1.0, 2.0)), {"grpcio": Times((1.0, 1.0, 4.0))})
    assert [(row.row, row.value, row.peers) for row in compared.rows()] == [
        ("w: median", 2.0, {"grpcio": 1.0}),
        ("w: fastest", 1.0, {"grpcio": 1.0}),
        ("w: slowest", 3.0, {"grpcio": 4.0}),
    ]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_frames_come_together_again(size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    stream = iter([*frames(data), *frames(b"next")])
    assert (receive(stream), receive(stream), receive(stream)) == (data, b"next", None)


class Channel:
    """Two nodes that answer with what a test says."""

    open_ended = True
    clock = WallClock()

    def __init__(self, answer):
        self.answer = answer

    def nodes(self, at_least):
        return [1, 2]

    def wait(self, timeout_s): ...

    def identity(self, node): ...

    def exchange(self, purpose, group):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def send(self, node, task): ...

    def receive(self, timeout_s):
        return None if self.answer is None else (1, self.answer)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (None, "no answer came within 120 s"),
        (NoAnswer("out of memory"), "a node did not answer: out of memory"),
        (b"short", "a node answered with 5 bytes, expected the 7 it was sent"),
    ],
)
def test_a_round_that_did_not_happen_is_not_measured(answer, complaint):
    with pytest.raises(MachineError, match=complaint):
        ChannelRounds(Channel(answer), 2).round(b"7 bytes")


def test_missing_nodes_are_noticed():
    rounds = ChannelRounds(Channel(b""), 3)
    assert not rounds.wait_for_nodes(0)
    with pytest.raises(MachineError, match="2 nodes are there, expected 3"):
        rounds.round(b"")

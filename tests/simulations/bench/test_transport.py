"""The whole benchmark, small: it measures, whatever the figures are."""

import json

import pytest

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


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_frames_come_together_again(size):
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    stream = iter([*frames(data), *frames(b"next")])
    assert (receive(stream), receive(stream), receive(stream)) == (data, b"next", None)

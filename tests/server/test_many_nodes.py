"""Many nodes at once on one server."""

import subprocess
import sys
from pathlib import Path

import pytest

from plait.rounds.channel import Purpose

NODES = 200


@pytest.mark.slow
def test_two_hundred_nodes_each_answer_two_rounds_once(channel, until):
    command = [sys.executable, "-m", "simulations.bench.transport_light", "plait", channel.address, str(NODES)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as nodes:
        try:
            until(lambda: nodes.poll() is None and len(channel.nodes(0)) == NODES)
            for group in ("1", "2"):
                with channel.exchange(Purpose.TRAIN, group) as exchange:
                    for node in channel.nodes(0):
                        exchange.send(node, (f"{group} {node}".encode(), b""))
                    answers = [exchange.receive(180.0) for _ in range(NODES)]
                    assert exchange.receive(0.0) is None
                assert {node: bytes(data) for node, data in answers} == {
                    node: f"{group} {node}".encode() for node in channel.nodes(0)
                }
            channel.stop(finished=True)
            assert nodes.wait(180) == 0
        finally:
            nodes.kill()

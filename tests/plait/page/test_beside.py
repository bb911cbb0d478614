"""``--page``: the live page beside a run, from before its first event to the command's end, however that comes."""

import re
import socket
import subprocess
import threading
import time

import httpx
import pytest

from plait.errors import ConfigError, MachineError
from plait.page import beside
from plait.page.beside import page_beside
from tests.commands import Command

SMALL = ("--base", "tiny", "--clients", "2", "--rounds", "2", "--local-steps", "1", "--seq-len", "32", "--threads", "1")


def gone(address: str) -> bool:
    """Whether nothing answers there any more, within some minutes."""
    until = time.monotonic() + 180
    while time.monotonic() < until:
        try:
            httpx.get(f"{address}/api/runs", timeout=5)
        except httpx.TransportError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_a_simulation_is_shown_from_before_its_first_event_until_it_is_killed(tmp_path):
    command = ("simulate", *SMALL, "--rounds", "1000", "--page", "127.0.0.1:0", "--out", "run")
    process = Command(*command, cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        found = next(
            found for line in process.stderr if (found := re.search(r"live page on (http://\S+)/\?(\S+)", line))
        )
        address, token = found[1], found[2]
        until = time.monotonic() + 240
        document: dict[str, object] = {}
        while not document.get("run") and time.monotonic() < until:
            answer = httpx.get(f"{address}/api/runs/run?{token}", timeout=180)
            assert answer.status_code == 200, "a run that has not begun is a run too"
            document = answer.json()["document"]
            time.sleep(0.1)
        assert document["run"], "the run's first event has reached the page"
        assert httpx.get(f"{address}/api/runs?{token}", timeout=180).json() == {"runs": ["run"]}
    finally:
        process.kill()
        process.communicate()
    assert gone(address), "the page outlives its command"


@pytest.mark.slow
def test_the_page_waits_until_that_of_a_killed_server_has_ended(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    threading.Timer(0.3, taken.close).start()
    with page_beside(tmp_path, f"127.0.0.1:{port}") as shown:
        assert httpx.get(shown, timeout=180).status_code == 200


def test_an_address_that_others_could_reach_or_that_is_taken_is_refused_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(beside, "_PREDECESSOR_S", 0.0)
    for listen in ("0.0.0.0:9443", "[::]:9443", "fed.example.org:9443", "10.0.0.5:9443"):
        other = pytest.raises(ConfigError, match=r"the page serves only this machine: use --page 127\.0\.0\.1:9443")
        with other as caught, page_beside(tmp_path, listen):
            raise AssertionError("the block ran")
        assert "ssh -N -L 9443:127.0.0.1:9443" in str(caught.value)
        assert "a proxy of your own" in str(caught.value)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    with taken, pytest.raises(MachineError), page_beside(tmp_path, f"127.0.0.1:{port}"):
        raise AssertionError("the block ran")

"""Every mistake between an operator and a federation is reported in one line with the cause and the remedy."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import sys
import threading
from datetime import UTC, datetime

import pytest

from plait.cli.main import main
from plait.config import RunConfig
from plait.errors import MachineError
from plait.rounds.channel import Purpose
from plait.run import blueprint_of
from plait.settle import settle
from plait.training.bases import locate_base
from plait.trust.kit import ServerKit
from plait.trust.provision import provision, revoke
from plait.wire.messages import DescribeTask, Refusal, decode_reply, encode_task
from server.hosting import Terms
from server.nodes_channel import NodesChannel
from server.uploads import Limits

NOW = datetime.now(UTC)
CONFIG = RunConfig(base="tiny", seq_len=32, rank=2, device="cpu", dtype="float32")
LIMITS = Limits(max_answer_bytes=1 << 20)


@pytest.fixture
def kits(tmp_path):
    provision(tmp_path / "kits", ["alice", "bob"], ["localhost"], now=NOW)
    return tmp_path / "kits"


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "alice.jsonl"
    path.write_text((json.dumps({"text": "some words of training text " * 8}) + "\n") * 20)
    return path


@pytest.fixture
def serve(kits, tmp_path):
    channels = []

    def start():
        base = bytes.fromhex(locate_base("tiny").reference.fingerprint)
        channel = NodesChannel("127.0.0.1:0", kit=ServerKit.load(kits / "server"), limits=LIMITS)
        channel.begin(Terms(7, CONFIG.to_table(), base), inbox=tmp_path / "inbox")
        channel.start()
        channels.append(channel)
        return channel

    yield start
    for channel in channels:
        channel.stop()


@pytest.fixture
def plait(capfd, monkeypatch):
    """Runs a verb in this process; gives its exit code and what it printed.

    It is told to stop once it tries again or refuses, and after some minutes in any case.
    """
    printed = []

    def watch(over):
        for _ in range(6000):
            if over.wait(0.05):
                return
            out, err = capfd.readouterr()
            printed.append(out + err)
            if "trying again" in "".join(printed) or "reported to the server" in "".join(printed):
                break
        os.kill(os.getpid(), signal.SIGTERM)

    def run(*arguments):
        printed.clear()
        monkeypatch.setattr(sys, "argv", ["plait", *map(str, arguments)])
        over = threading.Event()
        watcher = threading.Thread(target=watch, args=(over,))
        watcher.start()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            over.set()
            watcher.join()
        out, err = capfd.readouterr()
        return code, "".join(printed) + out + err

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def client(plait, kits, data, tmp_path):
    """Runs `plait client`; gives its exit code and the line that says what is wrong."""

    def run(server):
        code, printed = plait(
            "client", "--server", server, "--kit", kits / "clients" / "alice", "--data", data,
            "--state", tmp_path / "state", "--device", "cpu", "--threads", "1", "--policy", data_policy(tmp_path),
        )  # fmt: skip
        assert "Traceback" not in printed
        wrong = [line for line in printed.splitlines() if re.search("^error: |trying again|to the server: ", line)]
        # On a busy machine it may have tried again, and said the same, before it was told to stop.
        said = {re.sub(r"^[0-9:]+ | \(attempt [0-9]+\)", "", line) for line in wrong}
        assert len(said) == 1, printed
        return code, wrong[0]

    return run


def data_policy(tmp_path):
    """The run is smaller than what the default policy takes."""
    path = tmp_path / "policy.toml"
    path.write_text("min-tokens = 1\nmin-examples = 1\n")
    return path


def address(channel):
    return channel.address.replace("127.0.0.1", "localhost")


def never_registered(kits):
    (kits / "server" / "clients.json").write_text('{"clients": []}\n')


def revoked(kits):
    revoke(kits, "alice", now=NOW)


def of_two_clients(kits):
    shutil.copy(kits / "clients" / "bob" / "node.key", kits / "clients" / "alice" / "node.key")


@pytest.mark.parametrize(
    ("make", "cause", "remedy"),
    [
        (never_registered, "does not have this node", "must copy clients.json"),
        (revoked, "key has been revoked", "ask the server's operator for a new kit"),
        (of_two_clients, "key is registered for another name", "ask for a kit"),
    ],
)
def test_a_kit_that_admits_no_one(serve, client, kits, make, cause, remedy):
    channel = serve()
    make(kits)
    code, line = client(address(channel))
    assert (code, cause in line, remedy in line) == (3, True, True), line


@pytest.mark.slow
def test_a_full_disk_under_a_clients_state(serve, client, monkeypatch):
    def full(path, data, **_):
        raise MachineError(f"cannot write '{path}': {os.strerror(errno.ENOSPC)}")

    monkeypatch.setattr("plait.rounds.memory.write_atomically", full)
    channel = serve()
    heard = []

    def ask():
        (node,) = channel.nodes(1)
        spec = blueprint_of(settle(CONFIG), locate_base("tiny").directory).spec
        with channel.exchange(Purpose.DESCRIBE, "0") as exchange:
            exchange.send(node, encode_task(DescribeTask(settle(CONFIG).plan.settings, spec.text)))
            heard.append(exchange.receive(180.0))

    asking = threading.Thread(target=ask)
    asking.start()
    code, line = client(address(channel))
    asking.join()
    assert code == 0
    assert "No space left on device; free some, or give another --state" in line
    ((_, answer),) = heard
    reply = decode_reply(answer, max_bytes=1 << 20)
    assert isinstance(reply, Refusal)


def test_a_server_whose_port_is_taken(plait, kits, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, printed = plait(
            "server", "--kit", kits / "server", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", "--base", "tiny",
            "--out", tmp_path / "run",
        )  # fmt: skip
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in printed
    assert (code, "the port is in use" in line, "choose another --listen" in line) == (1, True, True), line

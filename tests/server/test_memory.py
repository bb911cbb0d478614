"""What unauthenticated peers can make the server hold: hand-written HTTP/2, as gRPC's client is too well-behaved."""

import socket
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from plait.transport.protocol import MAX_MESSAGE_BYTES
from tests.server.conftest import BareNode

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
ACK, END_HEADERS = 1, 4
INITIAL_WINDOW = 65535

PREAMBLE = """
import sys
from pathlib import Path
from plait.system.machine import give_back_memory
from plait.rounds.channel import NoAnswer, Purpose
from server.nodes_channel import NodesChannel
from server.hosting import Terms
from server.uploads import Limits
serving = NodesChannel("127.0.0.1:0", kit=None, limits=Limits(max_answer_bytes=1 << 23))
serving.begin(Terms(1, {}, b""), inbox=Path(sys.argv[1]))
"""
SERVE = f"""{PREAMBLE}
with serving as channel:
    print(channel.address.rpartition(":")[2], flush=True)
    sys.stdin.read()
"""

ROUND = f"""{PREAMBLE}
def own_bytes():
    give_back_memory()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
with serving as channel:
    print(channel.address, flush=True)
    nodes = channel.nodes(int(sys.argv[2]))
    before = own_bytes()
    with channel.exchange(Purpose.TRAIN, "1") as exchange:
        for node in nodes:
            exchange.send(node, (b"task", b""))
        answered = sum(not isinstance(exchange.receive(180.0)[1], NoAnswer) for node in nodes)
    print(answered, own_bytes() - before, flush=True)
"""


def frame(kind, stream, payload, *, flags=0):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request(call):
    fields = {":method": "POST", ":scheme": "http", ":path": f"/plait.v1.Federation/{call}", ":authority": "x"}
    fields |= {"te": "trailers", "content-type": "application/grpc"}
    return b"".join(b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in field) for field in fields.items())


class Hoarder:
    """A connection with as many calls at once as the server lets it, each with all but the end of a large message."""

    def __init__(self, port, call, *, calls=64):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.settimeout(0.05)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, b""))
        self.window = INITIAL_WINDOW
        self.stream_window = INITIAL_WINDOW
        self.windows = {}
        self.left = {}
        self.unread = b""
        self.sent_bytes = 0
        for stream in range(1, 2 * calls, 2):
            self.socket.sendall(frame(HEADERS, stream, request(call), flags=END_HEADERS))
            self.windows[stream] = self.stream_window
            self.left[stream] = b"\0" + struct.pack(">I", MAX_MESSAGE_BYTES) + bytes(MAX_MESSAGE_BYTES - 1)

    def hoard(self, seconds):
        end = time.monotonic() + seconds
        with suppress(ConnectionError):
            while time.monotonic() < end:
                for stream in list(self.left):
                    self.send(stream)
                with suppress(TimeoutError):
                    if not (data := self.socket.recv(1 << 16)):
                        return
                    self.hear(data)

    def send(self, stream):
        while (count := min(16384, self.windows[stream], self.window, len(self.left[stream]))) > 0:
            self.socket.sendall(frame(DATA, stream, self.left[stream][:count]))
            self.left[stream] = self.left[stream][count:]
            self.windows[stream] -= count
            self.window -= count
            self.sent_bytes += count

    def hear(self, data):
        self.unread += data
        while len(self.unread) >= 9 and len(self.unread) >= 9 + (length := int.from_bytes(self.unread[:3], "big")):
            kind, flags, stream = self.unread[3], self.unread[4], int.from_bytes(self.unread[5:9], "big")
            payload, self.unread = self.unread[9 : 9 + length], self.unread[9 + length :]
            if kind == WINDOW_UPDATE and not stream:
                self.window += int.from_bytes(payload, "big")
            elif kind == WINDOW_UPDATE and stream in self.windows:
                self.windows[stream] += int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags & ACK:
                self.take(dict(struct.iter_unpack(">HI", payload)))
                self.socket.sendall(frame(SETTINGS, 0, b"", flags=ACK))
            elif kind == PING and not flags & ACK:
                self.socket.sendall(frame(PING, 0, payload, flags=ACK))
            elif kind == RST_STREAM:
                self.left.pop(stream, None)

    def take(self, settings):
        window = settings.get(4, self.stream_window)
        self.windows = {stream: value + window - self.stream_window for stream, value in self.windows.items()}
        self.stream_window = window


def most_added_bytes(port, process, call, *, connections, seconds):
    """How much more memory a server has at its peak while so many connections hoard calls."""
    status = Path(f"/proc/{process}/status")

    def rss_bytes():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) << 10

    before = peak = rss_bytes()
    hoarders = [Hoarder(port, call) for _ in range(connections)]
    threads = [threading.Thread(target=hoarder.hoard, args=(seconds,)) for hoarder in hoarders]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        peak = max(peak, rss_bytes())
        time.sleep(0.02)
    for hoarder in hoarders:
        hoarder.socket.close()
    # That it took in what it could shows that they tried.
    assert min(hoarder.sent_bytes for hoarder in hoarders) > 1 << 20
    return peak - before


@pytest.fixture
def server(tmp_path):
    """A server in a process of its own: its port and its process."""
    command = [sys.executable, "-c", SERVE, str(tmp_path / "inbox")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield int(process.stdout.readline()), process.pid
        process.stdin.close()
        process.wait(timeout=180)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a system without /proc")
@pytest.mark.parametrize("call", ["Attend", "Upload", "Status"])
def test_a_connection_that_proves_nothing_makes_the_server_hold_16_mib_at_most(server, call):
    port, process = server
    assert most_added_bytes(port, process, call, connections=6, seconds=3.0) < 6 * (16 << 20)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a system without /proc")
def test_a_connection_that_has_brought_a_large_answer_keeps_little_of_its_memory(tmp_path):
    count, answer_bytes = 40, 4 << 20
    command = [sys.executable, "-c", ROUND, str(tmp_path / "inbox"), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        address = server.stdout.readline().strip()
        nodes = [BareNode(address, f"n{number}").attend(base=b"") for number in range(count)]

        def bring(node):
            assert node.upload(node.work().task_id, bytes(answer_bytes)).kept

        with ThreadPoolExecutor(count) as threads:
            list(threads.map(bring, nodes))
        answered, kept_bytes = map(int, server.stdout.readline().split())
        for node in nodes:
            node.leave()

    assert answered == count
    # A tenth of an answer: gRPC's room for the next read, and the odd block between.
    assert kept_bytes < count * answer_bytes / 10


def test_there_are_no_more_connections_than_for_the_nodes_those_at_the_door_and_so_many_strangers(make_channel):
    channel = make_channel(max_nodes=2, max_unproven=2, strangers=64)
    port = int(channel.address.rpartition(":")[2])
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
    # All stay open until the last is counted, so that none makes room for another.
    greeted = sum(map(greets, connections))
    for connection in connections:
        connection.close()

    assert greeted == 2 + 2 + 64


def greets(connection):
    """Whether the server speaks HTTP/2 here; it hangs up on one connection too many."""
    connection.settimeout(10.0)
    with suppress(ConnectionError):
        connection.sendall(PREFACE + frame(SETTINGS, 0, b""))
        return bool(connection.recv(9))
    return False

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from plait.transport.credentials import CHANNEL_OPTIONS, SERVER_OPTIONS, channel_options

FASTER = 50


def hastened(options):
    """The same options with a clock that runs faster."""
    kinds = ("keepalive_time_ms", "ping_interval_without_data_ms")
    return [(name, value // FASTER if name.endswith(kinds) else value) for name, value in options]


@pytest.mark.slow
def test_a_node_that_only_waits_is_not_turned_away_for_its_keepalive():
    over = threading.Event()

    def talk(said, context):
        yield b"welcome"
        over.wait(180)
        yield b"work"

    server = grpc.server(ThreadPoolExecutor(2), options=hastened(SERVER_OPTIONS))
    handler = grpc.stream_stream_rpc_method_handler(talk)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Talk": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=hastened(CHANNEL_OPTIONS)) as channel:
            call = channel.stream_stream("/test.Test/Talk")(iter([b"hello"]))
            assert next(call) == b"welcome"
            # A node waits for minutes between tasks; a server counts strikes for pings that come too often.
            time.sleep(10 * 20 / FASTER)
            over.set()
            assert next(call) == b"work"
    finally:
        over.set()
        server.stop(0).wait()


@pytest.mark.parametrize("option", sorted({name for name, _ in (*SERVER_OPTIONS, *CHANNEL_OPTIONS)}))
def test_grpc_knows_the_option(option):
    # gRPC says nothing of an option that it does not know.
    library = next((Path(grpc.__file__).parent / "_cython").glob("cygrpc*"))
    known = option.encode() in library.read_bytes()
    assert known


def test_this_machine_itself_is_reached_whatever_proxy_the_environment_names(monkeypatch):
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"localhost:{port}", options=channel_options("localhost")) as channel:
            grpc.channel_ready_future(channel).result(timeout=180)
    finally:
        server.stop(0).wait()
    assert channel_options("plait.example.org") == list(CHANNEL_OPTIONS)

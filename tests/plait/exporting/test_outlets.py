from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from plait.errors import ConfigError
from plait.exporting.outlets import Outlets
from plait.exporting.source import open_source


@pytest.fixture
def refusing() -> Iterator[str]:
    """A server that answers every load with an error."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "full"}}')

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_nothing_asked_for_is_nothing(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    assert Outlets.of(" , ", run=tmp_path, spec=open_source(by_plait()).spec) is None


def test_rounds_go_to_the_directory(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    adapter = by_plait()
    outlets = Outlets.of(str(tmp_path / "served"), run=tmp_path / "run", spec=open_source(adapter).spec)
    assert outlets is not None
    for number in (1, 2):
        assert outlets.publish(adapter, round_number=number) == ()
        assert (tmp_path / "served" / "latest").resolve().name == f"round-{number:06d}"


def test_an_address_alone_gets_a_directory_in_the_run(by_plait: Callable[..., Path], tmp_path: Path) -> None:
    spec = open_source(by_plait()).spec
    outlets = Outlets.of("http://localhost:8000, https://other", run=tmp_path / "first", spec=spec)
    assert outlets is not None
    assert outlets.directory == tmp_path / "first" / "published"
    assert outlets.servers == ("http://localhost:8000", "https://other")
    assert outlets.name == "first"


def test_what_fails_is_told_and_costs_nothing_else(
    by_plait: Callable[..., Path], tmp_path: Path, refusing: str
) -> None:
    adapter = by_plait()
    places = f"{tmp_path / 'served'},http://127.0.0.1:9,{refusing}"
    outlets = Outlets.of(places, run=tmp_path / "run", spec=open_source(adapter).spec)
    assert outlets is not None
    nobody, full = outlets.publish(adapter, round_number=1)
    assert "no answer from vLLM" in nobody
    assert full.endswith("(status 500): full")
    assert (tmp_path / "served" / "latest" / "adapter_model.safetensors").is_file()
    # A directory that has become unusable is told too.
    (tmp_path / "served" / "latest").unlink()
    (tmp_path / "served" / "latest").mkdir()
    (failure,) = outlets.publish(adapter, round_number=2)
    assert "is not a symbolic link" in failure


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ("a,b", "names directories 'a' and 'b', expected one"),
        ("ftp://x", "expected one such as http://localhost:8000"),
        ("{file}", "is a file, expected a directory"),
    ],
)
def test_a_place_that_cannot_be_is_refused_at_once(
    by_plait: Callable[..., Path], tmp_path: Path, places: str, message: str
) -> None:
    (tmp_path / "file").write_text("x")
    spec = open_source(by_plait()).spec
    with pytest.raises(ConfigError, match=message):
        Outlets.of(places.format(file=tmp_path / "file"), run=tmp_path / "run", spec=spec)


def test_an_adapter_that_vllm_does_not_take_goes_to_directories_only(
    by_peft: Callable[..., Path], tmp_path: Path
) -> None:
    spec = open_source(by_peft(use_dora=True)).spec
    with pytest.raises(ConfigError, match=r"is DoRA.*publish to a directory only"):
        Outlets.of("http://localhost:8000", run=tmp_path / "run", spec=spec)
    assert Outlets.of(str(tmp_path / "served"), run=tmp_path / "run", spec=spec) is not None

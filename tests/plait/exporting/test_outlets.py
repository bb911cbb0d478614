import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from plait.errors import ConfigError, MachineError, PeerError
from plait.exporting.outlets import Outlets, load_into_vllm, publish
from plait.exporting.source import open_source


def adapter_with(tmp_path: Path, weights: bytes) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_latest_is_a_whole_adapter_of_the_newest_round_and_of_old_ones_a_few_stay(tmp_path):
    place = tmp_path / "served"
    (place / "mine").mkdir(parents=True)
    for number in (1, 2, 3, 4, 5, 5):
        copy = publish(adapter_with(tmp_path, b"%d" % number), place, round_number=number)
        assert copy == place / f"round-{number:06d}"
        assert (place / "latest").resolve() == copy
        assert (place / "latest" / "adapter_model.safetensors").read_bytes() == b"%d" % number
    kept = [f"round-{number:06d}" for number in (3, 4, 5)]
    assert sorted(path.name for path in place.iterdir()) == ["latest", "mine", *kept]


def test_a_reader_never_sees_a_place_without_a_latest(tmp_path):
    place, stop, seen = tmp_path / "served", threading.Event(), []
    publish(adapter_with(tmp_path, b"0"), place, round_number=0)

    def look() -> None:
        while not stop.is_set():
            seen.append((place / "latest").readlink().name)

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 30):
        publish(adapter_with(tmp_path, b"%d" % number), place, round_number=number)
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert seen


@pytest.mark.parametrize(
    ("place", "kind", "message"),
    [
        ("file/below", MachineError, "cannot publish to"),
        ("theirs", ConfigError, "is not a symbolic link"),
        ("served", ConfigError, r"has no adapter_config\.json"),
    ],
)
def test_what_cannot_be_published_is_refused(tmp_path, place, kind, message):
    (tmp_path / "file").write_text("x")
    (tmp_path / "theirs" / "latest").mkdir(parents=True)
    adapter = adapter_with(tmp_path, b"x")
    if place == "served":
        (adapter / "adapter_config.json").unlink()
    with pytest.raises(kind, match=message):
        publish(adapter, tmp_path / place, round_number=1)


class Vllm:
    """Answers as vLLM does: by the rules of its load endpoint."""

    def __init__(self, *, in_place: bool = True, refuse: tuple[int, str] | None = None) -> None:
        self.loaded: dict[str, str] = {}
        self.calls: list[tuple[str, dict[str, object], str | None]] = []
        self.in_place, self.refuse = in_place, refuse

    def answer(self, path: str, body: dict[str, object], key: str | None) -> tuple[int, str]:
        self.calls.append((path, body, key))
        if self.refuse:
            return self.refuse
        name = str(body["lora_name"])
        if path.endswith("/unload_lora_adapter"):
            return (200, "ok") if self.loaded.pop(name, None) else (404, _error(f"LoRA adapter '{name}' not found"))
        if name in self.loaded and not (self.in_place and body.get("load_inplace")):
            return 400, _error(f"The lora adapter '{name}' has already been loaded.")
        self.loaded[name] = str(body["lora_path"])
        return 200, "Success: LoRA adapter added"


def _error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "InvalidUserInput", "code": 400}})


@pytest.fixture
def serve() -> Iterator[Callable[[Vllm], str]]:
    servers: list[HTTPServer] = []

    def start(vllm: Vllm) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, text = vllm.answer(self.path, body, self.headers["Authorization"])
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("in_place", [True, False])
def test_the_newest_round_takes_the_place_of_the_one_before(serve, tmp_path, in_place):
    vllm = Vllm(in_place=in_place)
    address = serve(vllm)
    for number in (1, 2):
        load_into_vllm(f"{address}/v1/", name="run", adapter=tmp_path / str(number), api_key="secret")
        assert vllm.loaded == {"run": str(tmp_path / str(number))}
    assert sum("unload" in path for path, _, _ in vllm.calls) == (0 if in_place else 1)
    assert {key for _, _, key in vllm.calls} == {"Bearer secret"}
    lacking = serve(Vllm(refuse=(404, '{"detail":"Not Found"}')))
    with pytest.raises(PeerError, match=r"has no load endpoint .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        load_into_vllm(lacking, name="run", adapter=tmp_path)


def test_what_fails_is_told_and_costs_nothing_else(by_plait, tmp_path, serve):
    adapter, refusing = by_plait(), serve(Vllm(refuse=(500, _error("full"))))
    places = f"{tmp_path / 'served'},http://127.0.0.1:9,{refusing}"
    outlets = Outlets.of(places, run=tmp_path / "run", spec=open_source(adapter).spec)
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
        *((each, "expected one such as") for each in ("ftp://x", "file:///etc/passwd", "http://a b", "http://h/?q")),
        ("{file}", "is a file, expected a directory"),
    ],
)
def test_a_place_that_cannot_be_is_refused_at_once(by_plait, tmp_path, places, message):
    (tmp_path / "file").write_text("x")
    spec = open_source(by_plait()).spec
    with pytest.raises(ConfigError, match=message):
        Outlets.of(places.format(file=tmp_path / "file"), run=tmp_path / "run", spec=spec)


def test_an_adapter_that_vllm_does_not_take_goes_to_directories_only(by_peft, tmp_path):
    spec = open_source(by_peft(use_dora=True)).spec
    with pytest.raises(ConfigError, match=r"is DoRA.*publish to a directory only"):
        Outlets.of("http://localhost:8000", run=tmp_path / "run", spec=spec)
    assert Outlets.of(str(tmp_path / "served"), run=tmp_path / "run", spec=spec) is not None

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from plait.errors import ConfigError, MachineError, PeerError
from plait.exporting.publish import load_into_vllm, publish


def adapter_with(tmp_path: Path, weights: bytes) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def test_latest_is_always_a_whole_adapter_of_one_round(tmp_path: Path) -> None:
    place = tmp_path / "served"
    for number in (1, 2, 3):
        copy = publish(adapter_with(tmp_path, b"%d" % number), place, round_number=number)
        assert copy == place / f"round-{number:06d}"
        assert (place / "latest").resolve() == copy
        assert (place / "latest" / "adapter_model.safetensors").read_bytes() == b"%d" % number


def test_a_reader_never_sees_a_place_without_a_latest(tmp_path: Path) -> None:
    place, stop, seen = tmp_path / "served", threading.Event(), []
    publish(adapter_with(tmp_path, b"0"), place, round_number=0)

    def look() -> None:
        while not stop.is_set():
            # The round is resolved once, as a server does: its directory stays while newer ones come.
            resolved = (place / "latest").resolve(strict=True)
            seen.append((resolved / "adapter_model.safetensors").read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for number in range(1, 30):
        publish(adapter_with(tmp_path, b"%d" % number), place, round_number=number, keep=100)
    stop.set()
    reader.join()
    assert seen == sorted(seen, key=int)
    assert seen


def test_old_rounds_are_removed_but_for_the_newest_few(tmp_path: Path) -> None:
    place = tmp_path / "served"
    (place / "mine").mkdir(parents=True)
    for number in range(1, 8):
        publish(adapter_with(tmp_path, b"x"), place, round_number=number, keep=2)
    assert sorted(path.name for path in place.iterdir()) == ["latest", "mine", "round-000006", "round-000007"]


def test_a_round_that_is_published_again_replaces_its_copy(tmp_path: Path) -> None:
    place = tmp_path / "served"
    publish(adapter_with(tmp_path, b"old"), place, round_number=4)
    publish(adapter_with(tmp_path, b"new"), place, round_number=4)
    assert (place / "latest" / "adapter_model.safetensors").read_bytes() == b"new"
    assert sorted(path.name for path in place.iterdir()) == ["latest", "round-000004"]


def test_a_place_with_a_latest_of_somebody_elses_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "served" / "latest").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is not a symbolic link"):
        publish(adapter_with(tmp_path, b"x"), tmp_path / "served", round_number=1)


def test_what_is_no_adapter_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(ConfigError, match=r"has no adapter_config\.json"):
        publish(tmp_path / "adapter", tmp_path / "served", round_number=1)


def test_a_place_that_cannot_be_made_is_the_machines_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="cannot publish to"):
        publish(adapter_with(tmp_path, b"x"), tmp_path / "file" / "served", round_number=1)


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
def test_the_newest_round_takes_the_place_of_the_one_before(
    serve: Callable[[Vllm], str], tmp_path: Path, in_place: bool
) -> None:
    vllm = Vllm(in_place=in_place)
    address = serve(vllm)
    for number in (1, 2):
        load_into_vllm(address, name="run", adapter=tmp_path / str(number))
        assert vllm.loaded == {"run": str(tmp_path / str(number))}
    unloads = [path for path, _, _ in vllm.calls if "unload" in path]
    assert len(unloads) == (0 if in_place else 1)


def test_the_key_is_sent_and_the_usual_address_is_understood(serve: Callable[[Vllm], str], tmp_path: Path) -> None:
    vllm = Vllm()
    load_into_vllm(serve(vllm) + "/v1/", name="run", adapter=tmp_path, api_key="secret")
    ((path, _, key),) = vllm.calls
    assert (path, key) == ("/v1/load_lora_adapter", "Bearer secret")


def test_a_server_without_the_endpoint_is_told_apart(serve: Callable[[Vllm], str], tmp_path: Path) -> None:
    address = serve(Vllm(refuse=(404, '{"detail":"Not Found"}')))
    with pytest.raises(PeerError, match=r"has no load endpoint .*VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"):
        load_into_vllm(address, name="run", adapter=tmp_path)


def test_a_refusal_is_passed_on_in_one_printable_line(serve: Callable[[Vllm], str], tmp_path: Path) -> None:
    address = serve(Vllm(refuse=(500, _error("LoRA rank 16 is greater\nthan \x1b[31mmax_lora_rank 8"))))
    with pytest.raises(PeerError) as refused:
        load_into_vllm(address, name="run", adapter=tmp_path)
    assert "LoRA rank 16 is greater than  [31mmax_lora_rank 8" in str(refused.value)


def test_an_address_without_a_server_is_the_machines_fault(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no answer from vLLM"):
        load_into_vllm("http://127.0.0.1:9", name="run", adapter=tmp_path, timeout_s=2)


@pytest.mark.parametrize("address", ["localhost:8000", "file:///etc/passwd", "http://a b", "http://h/?q"])
def test_what_is_no_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match="expected one such as"):
        load_into_vllm(address, name="run", adapter=tmp_path)

"""Uploads, by the hub's own client to a small server of its protocol on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import pytest

from plait.cli.app import app
from plait.errors import ConfigError, MachineError
from plait.exporting.hub import check_repository, push_to_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """What was made and uploaded; `status`, if set, is the answer to everything."""
    seen = SimpleNamespace(made=[], files={}, tokens=set(), status=0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            seen.tokens.add(self.headers.get("Authorization"))
            if seen.status:
                return self.answer({"error": "no"}, seen.status)
            if self.path == "/api/repos/create":
                seen.made.append(json.loads(data))
                return self.answer({"url": f"{address}/ada/{seen.made[-1]['name']}"})
            if "/preupload/" in self.path:
                names = [file["path"] for file in json.loads(data)["files"]]
                mode = {"uploadMode": "regular", "shouldIgnore": False}
                return self.answer({"files": [{"path": name, **mode} for name in names]})
            if self.path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            for line in map(json.loads, data.splitlines()):
                if line["key"] == "file":
                    seen.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return self.answer({"commitUrl": f"{address}/ada/first/commit/1", "commitOid": "1", "success": True})

        def answer(self, value: object, status: int = 200) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield seen
    server.shutdown()
    server.server_close()


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "README.md").write_text("a card")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "private.txt").write_text("put there by somebody else")
    return folder


def test_the_export_and_nothing_else_is_uploaded_to_a_private_repository(hub, export):
    push_to_hub(export, "ada/first", files=["README.md", "adapter_model.safetensors"])
    assert hub.files == {"README.md": b"a card", "adapter_model.safetensors": b"weights"}
    assert hub.made[0]["name"] == "first"
    assert hub.made[0].get("private") is True or hub.made[0].get("visibility") == "private"
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(("status", "kind"), [(401, ConfigError), (403, ConfigError), (500, MachineError)])
def test_a_refusal_is_one_line_without_the_token(hub, export, status, kind):
    hub.status = status
    with pytest.raises(kind, match=str(status)) as raised:
        push_to_hub(export, "ada/first", files=["README.md"])
    assert "\n" not in str(raised.value)
    assert "hf_secret" not in str(raised.value)


def test_without_a_token_it_says_how_to_log_in(hub, export, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="hf auth login"):
        push_to_hub(export, "ada/first", files=["README.md"])
    assert not hub.files


@pytest.mark.parametrize("name", ["first", "a/b/c", "ada/ first", "../up", "ada/", "", "ada/\x1b[2J"])
def test_a_name_that_no_repository_can_have_is_refused(name):
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        check_repository(name)


@pytest.mark.slow
def test_the_command_exports_and_uploads_with_the_card(hub, by_peft, tmp_path, capsys):
    adapter = by_peft()
    app(
        ["export", str(adapter), str(tmp_path / "out"), "--to", "peft", "--base", "tiny", "--push-to-hub", "ada/first"],
        standalone_mode=False,
    )
    assert set(hub.files) == {path.name for path in (tmp_path / "out").iterdir()}
    assert b"base_model" in hub.files["README.md"]
    assert "uploaded to" in capsys.readouterr().out


def test_public_needs_a_repository(tmp_path):
    with pytest.raises(ConfigError, match="--push-to-hub"):
        app(
            ["export", "runs/x", str(tmp_path / "out"), "--to", "peft", "--public"],
            standalone_mode=False,
        )

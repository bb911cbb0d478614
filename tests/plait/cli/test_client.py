from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.trust.provision import provision
from tests.commands import Command
from tests.waiting import unused_port


@pytest.fixture
def closed_port() -> int:
    return unused_port()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--server", "plait.example.org:9440", "--insecure"), 2, "expected a server on this machine"),
        (("--server", "localhost:9440"), 2, "give --kit DIR"),
        (("--server", "localhost:9440", "--kit", "nowhere"), 2, "kit 'nowhere' is not there"),
        (("--server", "localhost", "--insecure"), 2, "expected HOST:PORT"),
        (("--server", "localhost:9440", "--insecure", "--dtype", "int3"), 2, "dtype is 'int3'"),
        (("--server", "localhost:9440", "--insecure", "--json", "--quiet"), 2, "give one of them"),
        (("--server", "localhost:9440", "--insecure", "--name", "a/b"), 2, "client name is"),
        (
            ("--server", "localhost:9440", "--insecure", "--policy", "nowhere.toml"),
            2,
            "cannot read policy 'nowhere.toml'",
        ),
    ],
)
def test_what_an_operator_mistypes_is_said_in_one_line(
    plait, jsonl: Path, tmp_path: Path, options: tuple[str, ...], code: int, message: str
) -> None:
    ran = plait("client", "--data", jsonl, "--state", tmp_path / "state", *options)
    assert ran.code == code
    assert message in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("text", "message"), [(None, "cannot read"), ("", "no record"), ('{"texts": "x"}\n', "line 1")]
)
def test_data_that_is_of_no_use_is_found_before_anybody_is_called(
    plait, tmp_path: Path, text: str | None, message: str
) -> None:
    data = tmp_path / "my.jsonl"
    if text is not None:
        data.write_text(text)
    ran = plait("client", "--server", "localhost:9", "--insecure", "--data", data, "--state", tmp_path / "state")
    assert ran.code == 3
    assert message in ran.err
    assert "connecting" not in ran.err


def test_a_device_that_is_not_there_is_found_before_anybody_is_called(plait, jsonl: Path, tmp_path: Path) -> None:
    ran = plait(
        "client", "--server", "localhost:9", "--insecure", "--data", jsonl, "--state", tmp_path, "--device", "cuda:99"
    )  # fmt: skip
    assert ran.code == 2
    assert "this machine has none" in ran.err
    assert "connecting" not in ran.err


@contextmanager
def started(*options: object) -> Iterator[Command]:
    with Command("client", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: Command, event: str) -> dict[str, object]:
    """The next event of a name from a node that prints JSON."""
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return json.loads(line)
    raise AssertionError(f"the node ended without {event}: {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_node_without_a_server_says_why_waits_and_ends_when_told(
    jsonl: Path, tmp_path: Path, closed_port: int, number: signal.Signals, code: int
) -> None:
    address = f"127.0.0.1:{closed_port}"
    with started(
        "--server", address, "--insecure", "--data", jsonl, "--state", tmp_path / "state", "--json"
    ) as process:  # fmt: skip
        assert f"nothing listens at {address}" in str(told(process, "lost")["text"])
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert json.loads(rest.splitlines()[-1])["event"] == "stopping"
    assert errors == ("stopped; start it again to continue\n" if code else "")


@pytest.mark.slow
def test_two_nodes_do_not_share_a_name_and_a_killed_one_leaves_no_lock(
    plait, jsonl: Path, tmp_path: Path, closed_port: int
) -> None:
    options = ("--server", f"127.0.0.1:{closed_port}", "--insecure", "--data", jsonl, "--state", tmp_path / "state")
    with started(*options, "--json") as process:
        told(process, "data")
        second = plait("client", *options)
        assert second.code == 2
        assert f"in use by process {process.pid}" in second.err
        process.kill()
        process.wait(timeout=30)
    with started(*options, "--json") as again:
        told(again, "data")


@pytest.mark.slow
def test_a_kit_gives_the_name_and_a_broken_line_shows_no_trace(jsonl: Path, tmp_path: Path, closed_port: int) -> None:
    provision(tmp_path / "kits", ("ada",), ("localhost",), now=datetime.now(UTC))
    with started(
        "--server", f"localhost:{closed_port}", "--kit", tmp_path / "kits" / "clients" / "ada", "--data", jsonl,
        "--state", tmp_path / "state",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        lines: list[str] = []
        for line in process.stderr:
            lines.append(line)
            if "nothing listens" in line:
                break
        assert any(line.endswith(f"connecting to localhost:{closed_port} as ada\n") for line in lines)
        assert not any("Traceback" in line for line in lines)

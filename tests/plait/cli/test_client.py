import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.commands import Command
from tests.waiting import unused_port


@pytest.fixture
def closed_port() -> int:
    return unused_port()


@contextmanager
def started(*options: object) -> Iterator[Command]:
    with Command("client", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def told(process: Command, event: str) -> dict[str, object]:
    """The next event of a name from a node that prints JSON."""
    for line in process.stdout:
        if json.loads(line)["event"] == event:
            return json.loads(line)
    raise AssertionError(f"the node ended without {event}: {process.communicate()[1]}")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_node_without_a_server_says_why_waits_and_ends_when_told(jsonl, tmp_path, closed_port, number, code):
    address = f"127.0.0.1:{closed_port}"
    with started(
        "--server", address, "--insecure", "--data", jsonl, "--state", tmp_path / "state", "--json"
    ) as process:  # fmt: skip
        assert f"nothing listens at {address}" in str(told(process, "lost")["text"])
        process.send_signal(number)
        rest, errors = process.communicate(timeout=180)
    assert process.returncode == code
    assert json.loads(rest.splitlines()[-1])["event"] == "stopping"
    assert errors == ("stopped; start it again to continue\n" if code else "")

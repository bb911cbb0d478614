"""A process of plait's own: what cannot come between its messages, and that it never outlives its parent."""

import subprocess
import sys
from pathlib import Path

import pytest

from plait.system.child import Child

# What it was told is in its stdin by then, and its parent waits at its stdout.
BUSY = """
import os, signal, sys
os.write(1, bytes(99))
print("a banner", flush=True)
assert sys.stdin.read() == "" == os.read(0, 1).decode()
os.kill(os.getpid(), signal.SIGINT)

def main(parent):
    while True:
        message = parent.receive()
        os.write(1, bytes(99))
        print("at work", flush=True)
        assert sys.stdin.read() == ""
        parent.send({"told": message.fields}, *message.parts)
"""
PARENT = """
from plait.system.child import Child
child = Child("busy")
child.send({})
child.receive()
print("ready", flush=True)
child.receive()
"""


@pytest.fixture
def busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "busy.py").write_text(BUSY)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "busy"


@pytest.mark.slow
def test_nothing_that_a_part_prints_reads_or_raises_comes_between_messages(busy):
    child = Child(busy)
    for number, parts in enumerate([(), (b"", b"x" * 300_000)]):
        child.send({"task": number}, *parts)
        answer = child.receive()
        assert (answer.fields, tuple(answer.parts)) == ({"told": {"task": number}}, parts)
    child.kill()
    assert child.receive() is None
    assert child.ending() == "was ended by signal 9"
    child.send({"task": 2})  # to no one


@pytest.mark.slow
def test_it_ends_with_its_parent_even_where_that_is_killed(busy, tmp_path):
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PARENT}"
    parent = subprocess.Popen([sys.executable, "-c", start], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout
    assert parent.stdout.readline() == b"ready\n"
    parent.kill()
    # The child holds the other end of stderr for as long as it lives.
    parent.communicate(timeout=120)


@pytest.mark.slow
def test_it_ends_with_its_parent_while_it_still_imports_what_it_is_to_do(tmp_path):
    (tmp_path / "busy.py").write_text("import os, time\nos.write(2, b'here'), time.sleep(300)\n")
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PARENT}"
    parent = subprocess.Popen([sys.executable, "-c", start], stderr=subprocess.PIPE)
    assert parent.stderr
    assert parent.stderr.read(4) == b"here"
    parent.kill()
    parent.communicate(timeout=120)


def test_one_that_ends_by_itself_is_given_time_to_say_how(tmp_path, monkeypatch):
    # Its last word is heard before it has ended.
    (tmp_path / "leaving.py").write_text(
        "import os, sys, time\nos.close(1), os.close(4), time.sleep(0.5), os._exit(3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    child = Child("leaving")
    assert child.receive() is None
    child.kill(after_s=180)
    assert child.ending() == "ended with code 3"

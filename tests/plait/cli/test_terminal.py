"""What a terminal of 80 columns shows, and what a file is told instead."""

import contextlib
import fcntl
import os
import re
import shlex
import struct
import subprocess
import termios
import threading
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.commands import Command, run_command

pytestmark = pytest.mark.slow

COLUMNS = 80
CONTROL = re.compile(r"\x1b(\[[0-9;?]*[a-zA-Z]|\][^\x07]*\x07)")


def shown(*arguments: object, cwd: Path | None = None) -> tuple[int, list[str]]:
    """The exit status of a command in such a terminal, and all lines that it ever showed."""
    own, its = os.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, COLUMNS, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the writer has gone
            while part := os.read(own, 1 << 16):
                parts.append(part)

    with Command(
        *arguments, cwd=cwd, env={**environment, "TERM": "xterm-256color"}, stdout=its, stderr=subprocess.STDOUT
    ) as command:
        os.close(its)
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        code = command.wait(300)
    reader.join(180)
    os.close(own)
    text = CONTROL.sub("", b"".join(parts).decode())
    return code, [line.rstrip() for line in re.split(r"[\r\n]+", text)]


def too_wide(lines: list[str]) -> list[str]:
    return [line for line in lines if cell_len(line) > COLUMNS]


@pytest.fixture(scope="module")
def ran(original: Path, small: tuple[str, ...]) -> tuple[Path, list[str]]:
    """A folder with a run, and what its terminal showed."""
    options = ("--data", "my.jsonl", "--partition", "natural:author", *small, "--out", "runs/a-name-of-some-length")
    code, lines = shown("simulate", *options, cwd=original)
    assert code == 0, lines
    return original, lines


def test_a_run_fits_and_tells_what_it_does(ran):
    _, lines = ran
    assert too_wide(lines) == []
    # which of the rounds is seen in training depends on when the display refreshes
    for said in ("loading libraries", "partitioning my.jsonl", r"round \d of 2: training, ", "writing the report"):
        assert any(re.search(said, line) for line in lines), said


def test_the_three_commands_after_a_run_work_when_pasted(ran):
    folder, lines = ran
    commands = [line[line.index("plait ") :] for line in lines[-5:] if "plait " in line]
    assert [command.split()[1] for command in commands] == ["chat", "export", "report"]
    piped = "import io, sys; sys.stdin = io.StringIO('def add'); from plait.cli.main import main; main()"
    for command in commands:
        done = run_command(*shlex.split(command)[1:], cwd=folder, program=piped)
        assert done.returncode == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "report", "verify", "audit --allow data=my.jsonl", "privacy", "doctor", "simulate --method list --base tiny",
        "simulate --rule list --base tiny",
        "estimate --base tiny", "eval --adapter runs/a-name-of-some-length --data my.jsonl --seq-len 32",
        "compare run runs/a-name-of-some-length", "init my.jsonl",
    ],
)  # fmt: skip
def test_what_other_verbs_say_fits_too_and_the_newest_run_need_not_be_named(ran, line):
    code, lines = shown(*shlex.split(line), cwd=ran[0])
    assert code == 0, lines
    assert too_wide(lines) == []
    assert any(lines)


def test_a_file_gets_whole_lines(original, small, tmp_path):
    options = ("--data", original / "my.jsonl", "--partition", "natural:author", *small, "--out", tmp_path / "run")
    done = run_command("simulate", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[\r\x1b]", done.stderr + done.stdout) is None
    assert [line for line in done.stderr.splitlines() if line.startswith("loading libraries")] == ["loading libraries"]

"""Run the command line in this process, and the data that its tests train on."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from plait.cli.main import main
from tests.once import once
from tests.plait.api.conftest import rows


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Plait = Callable[..., Ran]


@pytest.fixture
def plait(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Plait]:
    handler = signal.getsignal(signal.SIGINT)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["plait", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    yield run
    signal.signal(signal.SIGINT, handler)


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Options of a run that takes two seconds."""
    return (
        "--base", "tiny", "--rounds", "2", "--local-steps", "2", "--batch-size", "2", "--seq-len", "32", "--rank", "2",
    )  # fmt: skip


def by_author(data: Path, out: Path | str, small: tuple[str, ...], *more: object) -> tuple[object, ...]:
    """The words of a short run whose clients are the three authors of these data."""
    return (
        "simulate", "--data", data, "--partition", "natural:author", "--clients", 3, *small, "--learning-rate", 1e-2,
        "--dtype", "float32", *more, "--out", out,
    )  # fmt: skip


def write_jsonl(path: Path) -> Path:
    """Three authors whose texts differ in kind and in size."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(30)))
    return path


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    """Data of one's own."""
    return write_jsonl(tmp_path / "my.jsonl")


@pytest.fixture(scope="session")
def original(small: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, made by the command in a process of its own, with its data beside it."""

    def make(folder: Path) -> None:
        data = write_jsonl(folder / "my.jsonl")
        words = by_author(data, folder / "run", small, "--reference", "central,local", "--json")
        command = [sys.executable, "-m", "plait.cli.main", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == json.loads((folder / "run" / "summary.json").read_text())

    return once(tmp_path_factory, "original", make)


@pytest.fixture
def finished(original: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    return Path(shutil.copytree(original / "run", tmp_path / "run"))

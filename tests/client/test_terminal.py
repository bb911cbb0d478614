"""The one question, on a separate terminal."""

from __future__ import annotations

import os
import pty
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from client.terminal import asker


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Puts standard input and error on a terminal, and gives the operator's end; in the test, which pytest captures."""
    opened: list[int] = []
    streams: list[IO[str]] = []

    def put() -> int:
        ours, theirs = pty.openpty()
        opened.extend((ours, theirs))
        for name, mode in (("stdin", "r"), ("stderr", "w")):
            streams.append(os.fdopen(os.dup(theirs), mode))
            monkeypatch.setattr(sys, name, streams[-1])
        return ours

    yield put
    monkeypatch.undo()
    for stream in streams:
        stream.close()
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("typed", "consents"),
    [(b"y\n", True), (b"YES\n", True), (b" yes \n", True), (b"n\n", False), (b"\n", False), (b"yesterday\n", False)],
)
def test_only_a_yes_is_a_yes(on_terminal: Callable[[], int], typed: bytes, consents: bool) -> None:
    terminal = on_terminal()
    ask = asker("Take part?")
    assert ask is not None
    os.write(terminal, typed)
    assert ask() is consents
    shown = b""
    while b"Take part? [y/N] " not in shown:  # what was typed is shown too, and may come by itself
        shown += os.read(terminal, 1000)


def test_it_is_asked_from_any_thread_and_waits_for_the_answer(on_terminal: Callable[[], int]) -> None:
    terminal = on_terminal()
    ask = asker("Take part?")
    assert ask is not None
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(ask()))
    asking.start()
    while b"[y/N]" not in os.read(terminal, 1000):
        pass
    assert not answers
    os.write(terminal, b"y\n")
    asking.join(60)
    assert answers == [True]


def test_a_terminal_that_hangs_up_says_no(on_terminal: Callable[[], int]) -> None:
    terminal = on_terminal()
    ask = asker("Take part?")
    assert ask is not None
    end_of_file = termios.tcgetattr(terminal)[6][termios.VEOF]
    os.write(terminal, end_of_file)
    assert ask() is False


def test_without_a_terminal_no_question_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert asker("Take part?") is None
    assert asker("Take part?") is None

"""Talking to a run's model: from a pipe, turn by turn, and without anything from a network."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import plait
from plait.cli.adapter import _print, _Talk, chat
from plait.training.generate import Sampling
from tests.plait.api.conftest import SMALL, rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chat") / "runs" / "run"
    plait.simulate(rows(), partition="natural:author", out=out, **SMALL)  # type: ignore[arg-type]
    return out


@pytest.mark.slow
def test_a_pipe_is_one_prompt_and_gets_the_answer_that_python_gets(trained, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("def add(\n"))
    chat(trained, text=True, tokens=8, temperature=0.0)
    expected = plait.open_run(trained).generate("def add(", max_tokens=8)
    assert capsys.readouterr().out == f"{expected[0]}\n"


@pytest.mark.slow
def test_without_a_name_it_is_the_newest_run(trained, monkeypatch, capsys):
    monkeypatch.chdir(trained.parent.parent)
    monkeypatch.setattr("sys.stdin", io.StringIO("x = "))
    chat(text=True, tokens=4)
    assert capsys.readouterr().out.endswith("\n")


class Parrot:
    """Says how many tokens it was asked with; a token is a word."""

    chats = True

    def __init__(self, context: int) -> None:
        self.context = context

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(range(len(text.split())))

    def encode_chat(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return tuple(range(sum(len(message["content"].split()) for message in messages)))

    def room(self, prompt: tuple[int, ...]) -> int:
        return self.context - len(prompt)

    def answers(
        self, prompts: Sequence[tuple[int, ...]], *, adapted: bool, show: Callable[[str], None], **_: object
    ) -> list[str]:
        pieces = [f"{len(prompts[0])} ", "adapted" if adapted else "base"]
        for piece in pieces:
            show(piece)
        return ["".join(pieces)]


def said(talk: _Talk, line: str) -> str:
    pieces: list[str] = []
    talk.answer(line, pieces.append)
    return "".join(pieces)


def talking(context: int, *, completes: bool = False) -> _Talk:
    return _Talk(Parrot(context), Sampling(), 0, 10, completes=completes)  # type: ignore[arg-type]


def test_a_conversation_is_remembered_until_it_is_begun_anew():
    talk = talking(100)
    assert said(talk, "one two") == "2 adapted"
    talk.adapted = False
    assert said(talk, "three") == "5 base"  # two words, two of the answer, one more
    talk.forget()
    assert said(talk, "three") == "1 base"


def test_the_oldest_turns_go_where_the_context_is_full():
    talk = talking(14)
    said(talk, "one two")
    assert said(talk, "three") == "1 adapted"


def test_a_text_is_continued_by_itself():
    talk = talking(100, completes=True)
    said(talk, "one two")
    assert said(talk, "three") == "1 adapted"


def test_what_a_model_writes_reaches_a_terminal_as_text_alone(capsys):
    class Hostile:
        def answer(self, _line: str, show: Callable[[str], None]) -> None:
            show("a\n\tb")
            show("\x1b]0;title\x07")

    _print(Hostile(), "")  # type: ignore[arg-type]
    assert capsys.readouterr().out == "a\n\tb\\x1b]0;title\\x07\n"

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from plait.training.bases import locate_base
from plait.training.serving.text import TextStream

TOKENIZER = AutoTokenizer.from_pretrained(locate_base("tiny").directory, trust_remote_code=False)


def decode(tokens: Sequence[int]) -> str:
    return TOKENIZER.decode(list(tokens), skip_special_tokens=True)


def pieces_of(tokens: Sequence[int], stop: Sequence[str] = ()) -> list[str]:
    stream, pieces = TextStream(decode, stop), []
    for token in tokens:
        pieces.append(stream.push(token))
        if stream.stopped:
            return pieces
    return [*pieces, stream.finish()]


@given(st.text())
def test_the_pieces_of_any_text_are_the_text(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    pieces = pieces_of(TOKENIZER(text)["input_ids"])
    assert "".join(pieces) == decode(TOKENIZER(text)["input_ids"])


def test_a_character_of_several_tokens_comes_whole() -> None:
    tokens = TOKENIZER("a🙂b")["input_ids"]
    assert len(tokens) > 3
    assert [piece for piece in pieces_of(tokens) if piece] == ["a", "🙂", "b"]


@pytest.mark.slow
@given(st.lists(st.integers(0, 2047)))
def test_tokens_that_are_no_text_are_not_held_back_for_ever(tokens: list[int]) -> None:
    stream, said = TextStream(decode, ()), 0
    for count, token in enumerate(tokens, start=1):
        said += bool(stream.push(token))
        assert count - stream._read < 4 or not decode(tokens[stream._read : count]).strip()


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_the_first_stop_and_never_shows_a_part_of_it(text: str, stops: list[str]) -> None:
    # One token a character.
    stream, said = TextStream(lambda tokens: "".join(map(chr, tokens)), stops), ""
    for character in text:
        said += stream.push(ord(character))
        if stream.stopped:
            break
    said += stream.finish()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert (said, stream.stopped) == (text, False)
        return
    # The stop that is complete first ends the text; of several complete at once the one that begins first.
    first = min(ends)
    begins = min(text[:first].find(stop) for stop in stops if text[:first].endswith(stop))
    assert (said, stream.stopped) == (text[:begins], True)


@pytest.mark.parametrize("stop", ["\n\n", "</s>"])
def test_an_empty_stop_stops_nothing(stop: str) -> None:
    tokens = TOKENIZER(f"a b{stop}c")["input_ids"]
    assert "".join(pieces_of(tokens, ("", stop))) == "a b"

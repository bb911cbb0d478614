from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoTokenizer

from plait.errors import ConfigError, MachineError
from plait.training.bases import LocatedBase
from plait.training.serving import Engine, Finish, Generation, Piece, Sampling, ServedAdapter

GREEDY = Sampling(temperature=0)
PROMPTS = (
    "def add(left, right):\n    return",
    "import os",
    "class Node:\n    def __init__(self, value, parent=None):\n",
)

MakeEngine = Callable[..., Engine]
Alone = Callable[..., list[int]]


def placed(engine: Engine, adapters: dict[str, Any]) -> dict[str | None, ServedAdapter | None]:
    served = {name: engine.place(name, adapter.spec, adapter.state) for name, adapter in adapters.items()}
    return {**served, None: None}


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def run(engine: Engine) -> None:
    """Step until nothing is left to do."""
    while engine.busy:
        engine.step()


@pytest.mark.slow
def test_adapters_of_both_kinds_and_the_base_at_once_each_write_what_peft_writes_alone(
    make_engine: MakeEngine, adapters: dict[str, Any], alone: Alone, tiny: LocatedBase
) -> None:
    engine = make_engine()
    tokenizer = AutoTokenizer.from_pretrained(tiny.directory, trust_remote_code=False)
    answers: dict[tuple[str | None, str], list[Piece]] = {}
    generations: list[Generation] = []
    for number, prompt in enumerate(PROMPTS):
        for name, adapter in placed(engine, adapters).items():
            pieces = answers[name, prompt] = []
            count = 12 + 5 * number
            generations.append(
                Generation(engine.encode(prompt), adapter, count, pieces.append, GREEDY, ignore_end=True)
            )
    # Some come while others are under way, and end before them.
    for generation in generations[:5]:
        engine.submit(generation)
    for _ in range(4):
        engine.step()
    for generation in generations[5:]:
        engine.submit(generation)
    run(engine)
    for number, prompt in enumerate(PROMPTS):
        for name in [*adapters, None]:
            pieces = answers[name, prompt]
            expected = alone(name, engine.encode(prompt), 12 + 5 * number)
            assert text_of(pieces) == tokenizer.decode(expected, skip_special_tokens=True), (name, prompt)
            assert (pieces[-1].finish, pieces[-1].tokens) == (Finish.LENGTH, len(expected))
    assert len({text_of(answers[name, PROMPTS[0]]) for name in [*adapters, None]}) == 1 + len(adapters)


@pytest.mark.slow
def test_more_requests_than_rows_wait_their_turn(
    make_engine: MakeEngine, adapters: dict[str, Any], alone: Alone
) -> None:
    engine = make_engine(rows=2, prompt_tokens=8)
    adapter = placed(engine, adapters)["one"]
    answers: list[list[Piece]] = [[] for _ in range(7)]
    for pieces in answers:
        engine.submit(Generation(engine.encode(PROMPTS[0]), adapter, 6, pieces.append, GREEDY, ignore_end=True))
    run(engine)
    assert len({text_of(pieces) for pieces in answers}) == 1
    assert all(pieces[-1].tokens == 6 for pieces in answers)


@pytest.mark.slow
def test_a_newer_version_of_an_adapter_does_not_change_a_text_half_way(
    make_engine: MakeEngine, adapters: dict[str, Any]
) -> None:
    engine = make_engine()
    old, new = placed(engine, adapters)["one"], placed(engine, adapters)["two"]

    def start(adapter: ServedAdapter | None) -> list[Piece]:
        pieces: list[Piece] = []
        engine.submit(Generation(engine.encode(PROMPTS[0]), adapter, 10, pieces.append, GREEDY, ignore_end=True))
        return pieces

    undisturbed = start(old)
    run(engine)
    begun = start(old)
    engine.step()
    later = start(new)
    run(engine)
    assert text_of(begun) == text_of(undisturbed) != text_of(later)


def test_the_bases_own_end_ends_a_text_and_is_not_part_of_it(make_engine: MakeEngine, alone: Alone) -> None:
    engine = make_engine()
    written = alone(None, engine.encode(PROMPTS[1]), 8)
    engine._ends = frozenset({written[5]})
    pieces: list[Piece] = []
    engine.submit(Generation(engine.encode(PROMPTS[1]), None, 8, pieces.append, GREEDY))
    run(engine)
    first = written.index(written[5])
    assert (pieces[-1].finish, pieces[-1].tokens) == (Finish.STOP, first + 1)
    assert text_of(pieces) == engine._tokenizer.decode(written[:first])


def test_a_stop_string_ends_a_text_before_it(make_engine: MakeEngine) -> None:
    engine = make_engine()
    whole: list[Piece] = []
    engine.submit(Generation(engine.encode(PROMPTS[0]), None, 30, whole.append, GREEDY, ignore_end=True))
    run(engine)
    stop = text_of(whole)[9:12]
    pieces: list[Piece] = []
    engine.submit(Generation(engine.encode(PROMPTS[0]), None, 30, pieces.append, GREEDY, (stop,), ignore_end=True))
    run(engine)
    assert text_of(pieces) == text_of(whole)[: text_of(whole).index(stop)]
    assert pieces[-1].finish is Finish.STOP
    assert pieces[-1].tokens < 30


def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch(
    make_engine: MakeEngine, adapters: dict[str, Any]
) -> None:
    engine = make_engine()
    served = placed(engine, adapters)

    def ask(seed: int) -> list[Piece]:
        pieces: list[Piece] = []
        drawn = Sampling(temperature=0.8, top_p=0.9, seed=seed)
        engine.submit(Generation(engine.encode(PROMPTS[0]), served["one"], 12, pieces.append, drawn, ignore_end=True))
        return pieces

    first = ask(7)
    run(engine)
    engine.submit(Generation(engine.encode(PROMPTS[2]), served["three"], 20, lambda _: None, ignore_end=True))
    engine.step()
    again, other = ask(7), ask(8)
    run(engine)
    assert text_of(first) == text_of(again) != text_of(other)


def test_what_is_given_up_makes_room_and_is_told(make_engine: MakeEngine) -> None:
    engine = make_engine(rows=1)
    under_way: list[Piece] = []
    waiting: list[Piece] = []
    first = Generation(engine.encode(PROMPTS[0]), None, 500, under_way.append, GREEDY, ignore_end=True)
    second = Generation(engine.encode(PROMPTS[0]), None, 500, waiting.append, GREEDY, ignore_end=True)
    engine.submit(first)
    engine.submit(second)
    engine.step()
    engine.cancel(second)
    engine.cancel(first)
    engine.step()
    assert not engine.busy
    assert [under_way[-1].finish, waiting[-1].finish] == [Finish.CANCELLED] * 2


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "message"),
    [
        ((), 4, "the prompt is empty"),
        ((1,) * 1020, 5, r"1020 \+ 5 tokens, expected at most 1024"),
        ((2048,), 4, "a token that is not one of the base's 2048"),
        ((-1,), 4, "a token that is not one of the base's 2048"),
    ],
)
def test_what_the_base_cannot_do_is_refused_before_any_work(
    make_engine: MakeEngine, prompt: tuple[int, ...], max_tokens: int, message: str
) -> None:
    engine = make_engine()
    with pytest.raises(ConfigError, match=message):
        engine.submit(Generation(prompt, None, max_tokens, lambda _: None))
    assert not engine.busy


def test_the_whole_context_can_be_used(make_engine: MakeEngine) -> None:
    engine = make_engine(context=64)
    pieces: list[Piece] = []
    engine.submit(Generation((5,) * 40, None, 24, pieces.append, GREEDY, ignore_end=True))
    run(engine)
    assert pieces[-1].tokens == 24
    with pytest.raises(ConfigError, match="expected at most 64, the context"):
        engine.submit(Generation((5,) * 41, None, 24, pieces.append))


def test_a_context_beyond_the_bases_is_refused(make_engine: MakeEngine) -> None:
    with pytest.raises(ConfigError, match="--context is 2000, expected at most 1024"):
        make_engine(context=2000)


def test_too_many_waiting_are_refused(make_engine: MakeEngine) -> None:
    engine = make_engine(waiting=1)
    engine.submit(Generation((5,), None, 4, lambda _: None))
    with pytest.raises(MachineError, match="1 requests are waiting already"):
        engine.submit(Generation((5,), None, 4, lambda _: None))


def test_a_failure_ends_the_requests_it_met_and_no_others(make_engine: MakeEngine) -> None:
    engine = make_engine()
    met: list[Piece] = []

    def break_down(piece: Piece) -> None:
        met.append(piece)
        if piece.finish is None:
            raise ValueError("broken")

    engine.submit(Generation(engine.encode(PROMPTS[0]), None, 9, break_down, GREEDY, ignore_end=True))
    run(engine)
    assert (met[-1].finish, met[-1].error) == (Finish.ERROR, "broken")
    later: list[Piece] = []
    engine.submit(Generation(engine.encode(PROMPTS[0]), None, 5, later.append, GREEDY, ignore_end=True))
    run(engine)
    assert later[-1].finish is Finish.LENGTH


def test_the_thread_works_sleeps_and_ends(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.start()
    for _ in range(2):
        over = threading.Event()

        def tell(piece: Piece, over: threading.Event = over) -> None:
            if piece.finish is Finish.LENGTH:
                over.set()

        engine.submit(Generation(engine.encode(PROMPTS[0]), None, 3, tell, ignore_end=True))
        assert over.wait(60)
    told: list[Piece] = []
    engine.submit(Generation(engine.encode(PROMPTS[0]), None, 900, told.append, ignore_end=True))
    engine.close()
    assert told[-1].finish is Finish.CANCELLED
    with pytest.raises(MachineError, match="closed"):
        engine.submit(Generation((5,), None, 4, lambda _: None))


def test_a_chat_is_put_into_the_bases_own_words(make_engine: MakeEngine, tiny: LocatedBase) -> None:
    engine = make_engine()
    messages = [{"role": "user", "content": "hi"}]
    tokenizer = AutoTokenizer.from_pretrained(tiny.directory, trust_remote_code=False)
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert engine._tokenizer.decode(engine.encode_chat(messages)) == expected
    engine._tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        engine.encode_chat(messages)

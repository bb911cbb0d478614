from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.cache_utils import DynamicCache

from plait.training.serving.cache import AlignedCache

LAYERS, HEADS, SIZE = 2, 2, 3


@dataclass
class Model:
    """What each row should hold: a number for each of its tokens."""

    rows: list[list[float]]
    next_number: float = 1.0

    def number(self) -> float:
        self.next_number += 1
        return self.next_number


def states(columns: list[list[float]]) -> torch.Tensor:
    """Keys of (rows, columns): every element is the token's number."""
    values = torch.tensor(columns)
    return values[:, None, :, None].expand(-1, HEADS, -1, SIZE)


def join(cache: AlignedCache, model: Model, lengths: list[int]) -> None:
    width = max(lengths)
    rows = [[model.number() for _ in range(length)] for length in lengths]
    padded = states([[float("nan")] * (width - len(row)) + row for row in rows])
    prompts = DynamicCache()
    for layer in range(LAYERS):
        prompts.update(padded + layer, -padded - layer, layer)
    cache.join(prompts, lengths)
    model.rows.extend(rows)


def step(cache: AlignedCache, model: Model) -> None:
    """One token for every row; everything that the model would read is what was written."""
    cache.make_room()
    numbers = [model.number() for _ in model.rows]
    mask = cache.mask()
    for row, number in zip(model.rows, numbers, strict=True):
        row.append(number)
    for layer in range(LAYERS):
        assert cache.cache.get_seq_length(layer) == mask.shape[1] - 1
        new = states([[number] for number in numbers])
        keys, values = cache.cache.update(new + layer, -new - layer, layer)
        assert keys.shape == values.shape == (len(numbers), HEADS, mask.shape[1], SIZE)
        for index, row in enumerate(model.rows):
            seen = mask[index].bool()
            expected = states([row])[0] + layer
            assert torch.equal(keys[index][:, seen], expected)
            assert torch.equal(values[index][:, seen], -expected)
    cache.advance()
    assert list(cache.lengths) == [len(row) for row in model.rows]


def leave(cache: AlignedCache, model: Model, index: int) -> None:
    cache.leave(index)
    model.rows[index] = model.rows[-1]
    model.rows.pop()


actions = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.lists(st.integers(1, 150), min_size=1, max_size=3)),
        st.tuples(st.just("step"), st.integers(1, 40)),
        st.tuples(st.just("leave"), st.integers(0, 7)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40)
@given(actions)
def test_every_row_reads_its_own_tokens_as_others_come_and_go(actions: list[tuple[str, object]]) -> None:
    cache, model = AlignedCache(max_rows=64, max_columns=400), Model([])
    for action, argument in actions:
        if action == "join":
            join(cache, model, argument)
        elif action == "step" and model.rows:
            for _ in range(argument):
                if max(map(len, model.rows)) < 400:
                    step(cache, model)
        elif action == "leave" and model.rows:
            leave(cache, model, argument % len(model.rows))


def test_rows_may_be_as_many_and_as_long_as_allowed_and_no_more_is_kept_for_them() -> None:
    cache, model = AlignedCache(max_rows=5, max_columns=200), Model([])
    join(cache, model, [190, 3, 7])
    join(cache, model, [2, 1])
    for _ in range(10):
        step(cache, model)
    assert cache._layers[0].all_keys.shape[0:3:2] == (5, 201)


@pytest.mark.slow
def test_columns_that_no_row_uses_any_more_are_used_again() -> None:
    cache, model = AlignedCache(max_rows=64, max_columns=10_000), Model([])
    join(cache, model, [100])
    for _ in range(50):
        join(cache, model, [20])
        leave(cache, model, 0)
        for _ in range(60):
            step(cache, model)
    # Rows of 80 tokens one after another, 3,000 in all.
    assert cache._layers[0].all_keys.shape[2] <= 512


def test_a_cache_without_rows_has_nothing_to_read() -> None:
    with pytest.raises(RuntimeError, match="no rows yet"):
        _ = AlignedCache(max_rows=1, max_columns=10).cache

"""Keys and values of rows of different lengths, aligned at their ends, so that all rows write the same next column.

    row 0   . . . . k k k k |        . unused    k a token's keys    | the column of the next token
    row 1   k k k k k k k k |
    row 2   . . . . . . k k |

Rows are added and removed between steps. The model reads a view: nothing is copied from step to step. Knows no adapter
and no text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from plait.training.sampling_limits import COLUMNS_AT_FIRST

Tensor = torch.Tensor


@dataclass(eq=False)
class _Frame:
    """What all layers share: the length of each row, and the next column."""

    lengths: list[int] = field(default_factory=list[int])
    end: int = 0

    @property
    def start(self) -> int:
        return self.end - max(self.lengths, default=0)


class _AlignedLayer(DynamicLayer):
    """Keys and values of one layer, (rows, heads, columns, size), with spare rows and columns."""

    def __init__(self, frame: _Frame, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._frame = frame
        self.all_keys, self.all_values = keys, values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        frame = self._frame
        rows = len(frame.lengths)
        self.all_keys[:rows, :, frame.end : frame.end + 1] = key_states
        self.all_values[:rows, :, frame.end : frame.end + 1] = value_states
        columns = slice(frame.start, frame.end + 1)
        return self.all_keys[:rows, :, columns], self.all_values[:rows, :, columns]

    def get_seq_length(self, *_: object) -> int:
        return self._frame.end - self._frame.start

    def change(self, *, rows: int, columns: int, used: slice, at: int) -> None:
        """Move the used columns to `at`, in buffers of this size."""
        self.all_keys = _moved(self.all_keys, rows, columns, used, at)
        self.all_values = _moved(self.all_values, rows, columns, used, at)


class AlignedCache:
    """The cache of all current rows.

    Args:
        max_rows: most that there are at a time.
    """

    def __init__(self, *, max_rows: int, max_columns: int) -> None:
        self._max_rows, self._max_columns = max_rows, max_columns
        self._frame = _Frame()
        self._layers: list[_AlignedLayer] = []
        self._cache: Cache | None = None

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each row."""
        return self._frame.lengths

    @property
    def cache(self) -> Cache:
        """The model's input for one token per row; call `advance` afterwards."""
        if self._cache is None:
            raise RuntimeError("the cache has no rows yet")
        return self._cache

    def mask(self) -> Tensor:
        """(rows, columns + 1): 1 where a row has a token, the next one included."""
        frame = self._frame
        columns = torch.arange(frame.start, frame.end + 1)
        firsts = frame.end - torch.tensor(frame.lengths)
        return (columns[None] >= firsts[:, None]).long()

    def make_room(self) -> None:
        """Make sure that the next column exists."""
        self._settle(rows=len(self._frame.lengths), width=self._frame.end - self._frame.start)

    def advance(self) -> None:
        """Every row has one token more."""
        self._frame.end += 1
        self._frame.lengths[:] = [length + 1 for length in self._frame.lengths]

    def join(self, prompts: DynamicCache, lengths: Sequence[int]) -> None:
        """Add the rows of `prompts`, which are also aligned at their ends.

        Args:
            prompts: (rows, heads, columns, size) for each layer.
            lengths: tokens of each row; the longest has as many as there are columns.
        """
        width, frame = max(lengths), self._frame
        if not self._layers:
            self._begin(prompts)
        before = len(frame.lengths)
        self._settle(rows=before + len(lengths), width=max(width, frame.end - frame.start))
        columns = slice(frame.end - width, frame.end)
        new = slice(before, before + len(lengths))
        for mine, (keys, values) in zip(self._layers, _tensors(prompts), strict=True):
            mine.all_keys[new, :, columns] = keys
            mine.all_values[new, :, columns] = values
        frame.lengths.extend(lengths)

    def leave(self, row: int) -> None:
        """Drop a row; the last one takes its place."""
        frame = self._frame
        last = len(frame.lengths) - 1
        if row != last:
            for layer in self._layers:
                layer.all_keys[row] = layer.all_keys[last]
                layer.all_values[row] = layer.all_values[last]
            frame.lengths[row] = frame.lengths[last]
        frame.lengths.pop()
        if not frame.lengths:
            frame.end = 0

    def clear(self) -> None:
        """Drop all rows and free the memory."""
        self._frame = _Frame()
        self._layers, self._cache = [], None

    def _begin(self, prompts: DynamicCache) -> None:
        for keys, values in _tensors(prompts):
            empty = keys.new_empty(0, keys.shape[1], 0, keys.shape[3])
            also_empty = values.new_empty(0, values.shape[1], 0, values.shape[3])
            self._layers.append(_AlignedLayer(self._frame, empty, also_empty))
        self._cache = Cache(layers=list(self._layers))

    def _settle(self, *, rows: int, width: int) -> None:
        """Make room for these rows, for `width` columns up to the end, and for one more behind it."""
        frame = self._frame
        had_rows, had_columns = self._layers[0].all_keys.shape[0:3:2]
        fits = width <= frame.end < had_columns
        if fits and rows <= had_rows:
            return
        # Twice the need, so that moving is rare; leading columns that no row uses any more are freed.
        columns = had_columns
        if not fits and 2 * width > had_columns:
            columns = max(had_columns, width + 1, min(2 * width, self._max_columns + 1), COLUMNS_AT_FIRST)
        end = frame.end if fits else width
        all_rows = had_rows if rows <= had_rows else max(rows, min(2 * had_rows, self._max_rows))
        used = slice(frame.start, frame.end)
        at = end - (used.stop - used.start)
        for layer in self._layers:
            layer.change(rows=all_rows, columns=columns, used=used, at=at)
        frame.end = end


def _tensors(prompts: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    layers = cast("list[DynamicLayer]", prompts.layers)
    return [(cast("Tensor", layer.keys), cast("Tensor", layer.values)) for layer in layers]


def _moved(buffer: Tensor, rows: int, columns: int, used: slice, at: int) -> Tensor:
    width = used.stop - used.start
    kept = buffer[:, :, used]
    if (rows, columns) == buffer.shape[0:3:2]:
        buffer[:, :, at : at + width] = kept.clone()
        return buffer
    # Zeros, not uninitialised memory: a masked value is still multiplied by zero, and NaN stays NaN.
    larger = buffer.new_zeros(rows, buffer.shape[1], columns, buffer.shape[3])
    larger[: buffer.shape[0], :, at : at + width] = kept
    return larger

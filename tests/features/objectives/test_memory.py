"""What preferences and rewarded completions hold in memory."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.cache_utils import DynamicCache
from transformers.generation import utils

from plait.adapters import AdapterTask
from plait.objectives.grpo import Rewarded
from plait.training.bases import LocatedBase
from plait.training.blueprint import AdapterTemplate, read_base_config
from plait.training.completions import completions_of
from plait.training.examples import Example
from plait.training.memory_plan import completions_bytes, size_of
from plait.training.resident import ResidentBase
from tests.plait.training.test_memory_plan import SETTINGS, fresh, sized  # noqa: F401 (a fixture)


@pytest.mark.slow
@pytest.mark.parametrize("seq_len", [24, 160])
def test_keys_and_values_of_completions_are_those_of_the_cache(
    fresh: ResidentBase,  # noqa: F811 (the fixture)
    blueprint: AdapterTemplate,
    tiny: LocatedBase,
    monkeypatch: pytest.MonkeyPatch,
    seq_len: int,
) -> None:
    caches: list[DynamicCache] = []

    class Kept(DynamicCache):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)
            caches.append(self)

    monkeypatch.setattr(utils, "DynamicCache", Kept)
    tokens = np.arange(5, seq_len - 2, dtype=np.int32)
    labels = np.where(np.arange(len(tokens)) < len(tokens) - 1, -100, tokens).astype(np.int32)
    asked = [Example.of_sides(Example(tokens + each, labels), None) for each in range(3)]
    model = fresh.carrying(blueprint.spec, blueprint.initial).eval()
    completions_of(model, asked, Rewarded(group_size=5, max_completion_tokens=8), fresh.tokenizer, (), seq_len=seq_len)
    size = size_of(read_base_config(tiny.directory, AdapterTask.CAUSAL_LM), blueprint.spec, value_bytes=4)
    assert size is not None
    held = sum(each.nbytes for layer in caches[0].layers for each in (layer.keys, layer.values))
    copied = caches[0].layers[0].keys.nbytes
    assert 0.8 * completions_bytes(size, rows=15, seq_len=seq_len) < held + copied
    assert held + copied <= completions_bytes(size, rows=15, seq_len=seq_len)

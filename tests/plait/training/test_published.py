import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Layout, Task
from plait.aggregation import BaseDelta, LowRank, geometry_of
from plait.rounds.moved_base import MovedBase
from plait.training.published import published, with_base


def test_an_adapter_of_higher_rank_is_adapter_and_moved_base_together():
    generator = np.random.default_rng(0)
    shapes = {}
    for module, (d_out, d_in) in {"q": (7, 5), "v": (4, 6)}.items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = [2, d_in]
        shapes[f"base_model.model.{module}.lora_B.weight"] = [d_out, 2]
    spec = AdapterSpec("lora", {"r": 2, "lora_alpha": 6, "use_rslora": True}, Task.CAUSAL_LM, (), Layout.of(shapes), 0)
    state = AdapterState(spec.layout, generator.normal(size=spec.layout.size).astype(np.float32))
    geometry = geometry_of(spec)
    moved = {"base_model.model.q": LowRank(generator.normal(size=(7, 3)), generator.normal(size=(3, 5)))}

    wider, adapter = with_base(spec, state, geometry, BaseDelta(moved))

    assert wider.rank == 5
    for before, after in zip(geometry.pairs, geometry_of(wider).pairs, strict=True):
        expected = before.scale * before.b_of(state.flat) @ before.a_of(state.flat)
        if before.module in moved:
            expected = expected + moved[before.module].b @ moved[before.module].a
        result = after.scale * after.b_of(adapter.flat) @ after.a_of(adapter.flat)
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_a_base_that_was_moved_by_nothing_leaves_the_adapter_as_it_is():
    spec = AdapterSpec(
        "lora",
        {"r": 1, "lora_alpha": 2},
        Task.CAUSAL_LM,
        (),
        Layout.of({"q.lora_A.weight": [1, 2], "q.lora_B.weight": [3, 1]}),
        0,
    )
    state = AdapterState.zeros(spec.layout)
    moved = MovedBase(BaseDelta({}), digest=b"moved")
    assert published(spec, state, geometry_of(spec), moved) == (spec, state)

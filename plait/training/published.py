"""A run's adapter in the form that plain PEFT loads on the public base.

If a run moves the base, the movement is folded into an adapter of a higher rank, which then is the whole model; an
encoder's prompt becomes a plain prompt.
"""

from __future__ import annotations

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Layout
from plait.aggregation import BaseDelta, Geometry
from plait.rounds.moved_base import MovedBase
from plait.training.prompts import servable


def published(
    spec: AdapterSpec, state: AdapterState, geometry: Geometry, moved: MovedBase
) -> tuple[AdapterSpec, AdapterState]:
    """Spec and values of the published adapter."""
    spec, state = servable(spec, state)
    return with_base(spec, state, geometry, moved.delta) if moved.delta.factors else (spec, state)


def with_base(
    spec: AdapterSpec, state: AdapterState, geometry: Geometry, moved: BaseDelta
) -> tuple[AdapterSpec, AdapterState]:
    """An adapter of one higher rank that combines the adapter with the change of the base.

    With n columns of the base's change b a, and scaling factor s: s [B, b/s, 0] [A; a; 0] = s B A + b a. All modules
    get the same rank, as multi-adapter servers require; unused columns are zero.
    """
    columns = max(factors.columns for factors in moved.factors.values())
    rank = max(pair.rank for pair in geometry.pairs) + columns
    shapes = {slot.name: slot.shape for slot in geometry.others}
    tensors = {slot.name: state[slot.name] for slot in geometry.others}
    for pair in geometry.pairs:
        b, a = np.zeros((pair.d_out, rank), np.float32), np.zeros((rank, pair.d_in), np.float32)
        b[:, : pair.rank], a[: pair.rank] = pair.b_of(state.flat), pair.a_of(state.flat)
        if pair.module in moved.factors:
            factors = moved.factors[pair.module]
            until = pair.rank + factors.columns
            b[:, pair.rank : until], a[pair.rank : until] = factors.b / pair.scale, factors.a
        for name, values in ((pair.b.name, b), (pair.a.name, a)):
            shapes[name], tensors[name] = values.shape, values
    layout = Layout.of(shapes)
    scale = geometry.pairs[0].scale
    wider = AdapterSpec(
        method=spec.method,
        peft_config={**spec.peft_config, "r": rank, "lora_alpha": scale * rank, "use_rslora": False},
        task=spec.task,
        labels=spec.labels,
        layout=layout,
        init_seed=spec.init_seed,
    )
    return wider, AdapterState.from_tensors(layout, tensors)

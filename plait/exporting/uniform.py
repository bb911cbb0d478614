"""One rank and one scaling factor for all modules, as servers require: zero-padded, or approximated at a lower rank.

The best approximation of a lower rank is the truncated singular value decomposition (Eckart-Young), computed through
QR of the factors. Padding changes nothing: alpha grows with the rank, so the scaling factor alpha / rank stays. For
serving only: a padded row has no gradient, so training cannot continue from here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Float32, Json, Layout, TensorSlot
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import LowRank
from plait.aggregation.projection import balanced
from plait.exporting.source import Source


@dataclass(frozen=True)
class Uniform:
    """An adapter of one rank and one scaling factor.

    Attributes:
        lost: fraction of the Frobenius norm of all products that the rank could not hold, 0 to 1.
    """

    source: Source
    lost: float


def uniform(source: Source, geometry: Geometry, *, rank: int) -> Uniform:
    """The nearest adapter in which every module has `rank`.

    Args:
        rank: of every module, at least 1.
    """
    config = source.spec.peft_config
    scale = geometry.pairs[0].scale
    if source.spec.rank == rank and not config.get("use_rslora"):
        return Uniform(source, 0.0)
    arrays: dict[str, Float32] = {}
    dropped = total = 0.0
    for pair in geometry.pairs:
        b, a, lost, norm = _fit(pair, source.state, rank)
        dropped, total = dropped + lost**2, total + norm**2
        arrays[pair.a.name] = a.reshape(_resized(pair.a, 0, rank))
        arrays[pair.b.name] = b.reshape(_resized(pair.b, 1, rank))
    layout = Layout.of({name: array.shape for name, array in arrays.items()})
    kept_settings = {key: value for key, value in config.items() if key != "use_rslora"}
    settings: dict[str, Json] = {**kept_settings, "r": rank, "lora_alpha": _number(scale * rank)}
    spec = replace(source.spec, peft_config=settings, layout=layout)
    fitted = replace(source, spec=spec, state=AdapterState.from_tensors(layout, arrays))
    return Uniform(fitted, math.sqrt(dropped / total) if total else 0.0)


def _fit(pair: Pair, state: AdapterState, rank: int) -> tuple[Float32, Float32, float, float]:
    b, a = pair.b_of(state.flat).astype(np.float64), pair.a_of(state.flat).astype(np.float64)
    product, lost = LowRank(pair.scale * b, a), 0.0
    if rank < pair.rank:
        factored = balanced(product, rank=rank, scale=pair.scale, spare=np.zeros((rank, pair.d_in)))
        b, a, lost = factored.b, factored.a, factored.dropped
    else:
        b = np.pad(b, ((0, 0), (0, rank - pair.rank)))
        a = np.pad(a, ((0, rank - pair.rank), (0, 0)))
    return b.astype(np.float32), a.astype(np.float32), lost, product.norm()


def _resized(slot: TensorSlot, axis: int, rank: int) -> tuple[int, ...]:
    return tuple(rank if index == axis else size for index, size in enumerate(slot.shape))


def _number(value: float) -> int | float:
    # Other tools expect a whole alpha; rounding may have moved it slightly.
    nearest = round(value)
    return nearest if nearest > 0 and math.isclose(value, nearest, rel_tol=1e-12) else value

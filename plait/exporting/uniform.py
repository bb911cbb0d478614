"""One rank and one scaling factor for all modules, as servers require: zero-padded, or approximated at a lower rank.

The best approximation of a lower rank is the truncated singular value decomposition (Eckart-Young), computed through
QR of the factors. Padding changes nothing: alpha grows with the rank, so the scaling factor alpha / rank stays. For
serving only: a padded row has no gradient, so training cannot continue from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterState, Float32, Json, Layout, TensorSlot
from plait.aggregation.geometry import Geometry, Pair
from plait.aggregation.low_rank import LowRank
from plait.aggregation.projection import balanced
from plait.exporting.source import Source

_PER_MODULE_KEYS = ("rank_pattern", "alpha_pattern", "use_rslora")


@dataclass(frozen=True)
class Uniform:
    """An adapter of one rank and one scaling factor.

    Attributes:
        lost: fraction of the Frobenius norm of all products that the rank could not hold, 0 to 1.
    """

    source: Source
    lost: float


def largest_rank(geometry: Geometry) -> int:
    """The smallest rank that holds every pair exactly."""
    return max((pair.rank for pair in geometry.pairs), default=1)


def uniform(source: Source, geometry: Geometry, *, rank: int) -> Uniform:
    """The nearest adapter in which every module has `rank`.

    Args:
        rank: of every module, at least 1.
    """
    config = source.spec.peft_config
    scale = _scale_of(source)
    if all(pair.rank == rank and pair.scale == scale for pair in geometry.pairs) and _is_uniform(config, rank):
        return Uniform(source, 0.0)
    arrays: dict[str, Float32] = {}
    dropped = total = 0.0
    for pair in geometry.pairs:
        b, a, lost, norm = _fit(pair, source.state, rank, scale)
        dropped, total = dropped + lost**2, total + norm**2
        arrays[pair.a.name] = a.reshape(_resized(pair.a, 0, rank))
        arrays[pair.b.name] = b.reshape(_resized(pair.b, 1, rank))
    layout = Layout.of({name: array.shape for name, array in arrays.items()})
    kept_settings = {key: value for key, value in config.items() if key not in _PER_MODULE_KEYS}
    settings: dict[str, Json] = {**kept_settings, "r": rank, "lora_alpha": _number(scale * rank)}
    spec = replace(source.spec, peft_config=settings, layout=layout)
    fitted = replace(source, spec=spec, state=AdapterState.from_tensors(layout, arrays))
    return Uniform(fitted, math.sqrt(dropped / total) if total else 0.0)


def _fit(pair: Pair, state: AdapterState, rank: int, scale: float) -> tuple[Float32, Float32, float, float]:
    b, a = pair.b_of(state.flat).astype(np.float64), pair.a_of(state.flat).astype(np.float64)
    # The square root goes to each factor, so that scale * b @ a equals the former pair.scale * b @ a.
    root = math.sqrt(pair.scale / scale)
    lost, norm = 0.0, 1.0
    if rank < pair.rank:
        product = LowRank(pair.scale * b, a)
        factored = balanced(product, rank=rank, scale=scale, spare=np.zeros((rank, pair.d_in)))
        b, a, lost, norm = factored.b, factored.a, factored.dropped, product.norm()
    else:
        b = np.pad(root * b, ((0, 0), (0, rank - pair.rank)))
        a = np.pad(root * a, ((0, rank - pair.rank), (0, 0)))
        norm = LowRank(scale * b, a).norm()
    return b.astype(np.float32), a.astype(np.float32), lost, norm


def _scale_of(source: Source) -> float:
    config, rank, alpha = source.spec.peft_config, source.spec.rank or 1, source.spec.alpha
    if alpha is None:
        return 1.0
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _is_uniform(config: Mapping[str, Json], rank: int) -> bool:
    return config.get("r") == rank and not any(config.get(key) for key in _PER_MODULE_KEYS)


def _resized(slot: TensorSlot, axis: int, rank: int) -> tuple[int, ...]:
    return tuple(rank if index == axis else size for index, size in enumerate(slot.shape))


def _number(value: float) -> int | float:
    # Other tools expect a whole alpha; rounding may have moved it slightly.
    nearest = round(value)
    return nearest if nearest > 0 and math.isclose(value, nearest, rel_tol=1e-12) else value

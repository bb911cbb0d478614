"""Whether an adapter is plain LoRA, pairs of factors on linear layers that a base has; and the same at one rank.

A server that ignores what PEFT stores besides (DoRA's magnitudes, whole modules) gives wrong answers silently, so each
of these is refused. Factors are padded with zeros, or approximated at a lower rank by the truncated singular value
decomposition (Eckart-Young). A padded row has no gradient, so training cannot continue from here.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Float32, Layout, TensorSlot
from plait.adapters.bottleneck import NO_WEIGHT
from plait.adapters.method import PROMPTS, in_base
from plait.adapters.spec import BOTTLENECK_TYPE
from plait.aggregation.factors import balanced
from plait.aggregation.geometry import Geometry, Pair, geometry_of
from plait.aggregation.low_rank import LowRank
from plait.data import Progress
from plait.errors import BaseMismatchError, ConfigError
from plait.exporting.source import Source
from plait.system.text import Json
from plait.training.bases import locate_config

if TYPE_CHECKING:
    from plait.training.export_weights import BaseShape

ONLY_PEFT: Mapping[str, str] = {
    **dict.fromkeys(PROMPTS, "it changes the input, not the weights"),
    BOTTLENECK_TYPE: NO_WEIGHT,
}
"""Types of adapters that change no weight, so that nothing can merge them, and why."""
_FEATURES = {
    "use_dora": "is DoRA, which has magnitudes besides the factors",
    "modules_to_save": "holds whole modules (modules_to_save)",
}


def plain_lora(source: Source, *, use: str, instead: str) -> Geometry:
    """The pairs of an adapter that is plain LoRA of a language model; ConfigError, naming its `use`, for any other."""
    fault = lora_fault(source.spec)
    if source.peft_type in ONLY_PEFT:
        instead = "export --to peft, or train with --method lora"
    if fault is not None:
        raise ConfigError(
            f"adapter '{source.name}' {fault}, {use} supports only plain LoRA of a language model: {instead}"
        )
    return geometry_of(source.spec)


def lora_fault(spec: AdapterSpec) -> str | None:
    """What makes the adapter more than plain LoRA of a language model, or None."""
    config = spec.peft_config
    if spec.task is AdapterTask.CLASSIFICATION:
        return "has a classification head"
    if config.get("peft_type") != "LORA":
        return f"is made by {spec.method} ({config.get('peft_type')})"
    for key, fault in _FEATURES.items():
        if config.get(key):
            return fault
    others = geometry_of(spec).others
    return f"holds '{others[0].name}', which is not a factor of LoRA" if others else None


def shape_of_base(source: Source, progress: Progress) -> "BaseShape":
    """The layers of an adapter's base, from its config alone."""
    progress("reading the base's layers")
    return export_weights().describe_base(locate_config(source.base.here), source.spec.task)


def export_weights():
    """`plait.training.export_weights`, which brings torch; most refusals need not wait for it."""
    from plait.training import export_weights

    return export_weights


def check_fit(geometry: Geometry, shape: "BaseShape", *, base: str) -> None:
    """Refuse an adapter of another base: a layer is missing or has another shape (BaseMismatchError).

    A changed embedding, or output layer tied to it, is a ConfigError.
    """
    for pair in geometry.pairs:
        name = in_base(pair.module)
        if ".lora_embedding_" in pair.a.name or (shape.tied and name == shape.output):
            tied = ", which is also the output layer," if shape.tied else ""
            raise ConfigError(
                f"the adapter changes the embedding of base '{base}'{tied} and only PEFT applies that correctly: "
                "export --to peft, or train with --target-modules all-linear"
            )
        expected = shape.linear.get(name)
        if expected is None:
            raise BaseMismatchError(f"base '{base}' has no linear layer '{name}', which the adapter changes")
        if (pair.d_out, pair.d_in) != expected:
            raise BaseMismatchError(
                f"the adapter changes '{name}' as {pair.d_out} x {pair.d_in}, base '{base}' has it as "
                f"{expected[0]} x {expected[1]}"
            )


def uniform(source: Source, geometry: Geometry, *, rank: int) -> Source:
    """The nearest adapter in which every module has `rank`, at least 1, and one scaling factor."""
    config = source.spec.peft_config
    scale = geometry.pairs[0].scale
    if source.spec.rank == rank and not config.get("use_rslora"):
        return source
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
    lost = math.sqrt(dropped / total) if total else 0.0
    return replace(source, spec=spec, state=AdapterState.from_tensors(layout, arrays), lost=lost)


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

"""Several adapters of one base merged into one: their weighted sum, TIES or DARE.

All of it is done on the changes of whole weights, scale * B A, module by module, and not on factors, whose sums have
cross terms that belong to no adapter. The result is the nearest adapter of the rank that is asked for.

- linear: the sum of weight times change; without loss where the rank holds it.
- ties: TIES-merging (Yadav et al., arXiv 2306.01708): of every change only the largest entries stay; each entry takes
  the sign with the larger sum of magnitudes; the changes of that sign are averaged by weight, and the mean is
  multiplied by the sum of the weights, so that equal changes of weight 1/n give that change.
- dare: DARE (Yu et al., arXiv 2311.03099): entries are dropped at random and the others divided by the share that
  stays, so that the expected sum is the linear one.

Knows no data, so nothing is tuned: `plait eval` tells which one is better.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Float32, Json, Layout, Parent
from plait.adapters.module_names import in_base
from plait.adapters.peft_settings import MAX_RANK
from plait.aggregation.geometry import Geometry
from plait.aggregation.low_rank import Float64, LowRank
from plait.aggregation.projection import balanced
from plait.errors import BaseMismatchError, ConfigError
from plait.exporting.plain_lora import plain_lora
from plait.exporting.source import Source

LINEAR, DARE = "linear", "dare"
HOWS = (LINEAR, "ties", DARE)
"""Ways of merging, by the names of `plait merge --how`."""
DENSITY = 0.2
"""Share of the entries that stay, if nothing else is asked for; TIES-merging's own choice (section 5)."""


@dataclass(frozen=True)
class Merged:
    """The merged adapter.

    Attributes:
        lost: fraction of the Frobenius norm of the merged change that the rank could not hold, 0 to 1.
        density: share of the entries that stayed; None for `linear`, which keeps all.
    """

    spec: AdapterSpec
    state: AdapterState
    parents: tuple[Parent, ...]
    lost: float
    density: float | None = None


def merge(
    given: Sequence[tuple[Source, float]],
    *,
    how: str = LINEAR,
    density: float | None = None,
    rank: int | None = None,
    seed: int | None = None,
) -> Merged:
    """Merge adapters of plain LoRA.

    Args:
        given: with their weights; all of one base.
        density: share of the entries that stay, over 0 and at most 1, by default `DENSITY`; not for `linear`, which
            keeps all.
        rank: of the result; by default the sum of the adapters' ranks for `linear`, which loses nothing, and the
            largest one's for the others.
        seed: of what DARE drops, by default 0; not for the others, which draw nothing.

    Raises:
        ConfigError: one is not plain LoRA, or a setting cannot be or would change nothing.
        BaseMismatchError: they belong to several bases.
    """
    _check(given, how, density, rank, seed)
    kept = None if how == LINEAR else DENSITY if density is None else density
    geometries = [plain_lora(source, use="plait merge", instead="train one run on all the data") for source, _ in given]
    modules = sorted({module for geometry in geometries for module in geometry.by_module})
    ranks = [max((pair.rank for pair in geometry.pairs), default=1) for geometry in geometries]
    wanted = rank or (sum(ranks) if how == LINEAR else max(ranks))
    if wanted > MAX_RANK:
        raise ConfigError(f"rank of the merged adapter would be {wanted}, expected at most {MAX_RANK}: give --rank")
    arrays: dict[str, Float32] = {}
    dropped = whole = 0.0
    for module in modules:
        terms = _terms(given, geometries, module)
        product = _combined(terms, how=how, density=kept, generator=_generator(seed or 0, module))
        factored = balanced(product, rank=wanted, scale=1.0, spare=np.zeros((wanted, product.a.shape[1])))
        arrays[f"{module}.lora_A.weight"] = factored.a.astype(np.float32)
        arrays[f"{module}.lora_B.weight"] = factored.b.astype(np.float32)
        dropped, whole = dropped + factored.dropped**2, whole + product.norm() ** 2
    layout = Layout.of({name: array.shape for name, array in arrays.items()})
    settings: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": wanted,
        "lora_alpha": wanted,
        "target_modules": _targets([source for source, _ in given], modules),
    }
    spec = replace(given[0][0].spec, method="lora", peft_config=settings, layout=layout, init_rank=0)
    parents = tuple(Parent(source.digest, weight) for source, weight in given)
    return Merged(
        spec, AdapterState.from_tensors(layout, arrays), parents, math.sqrt(dropped / whole) if whole else 0.0, kept
    )


def _check(
    given: Sequence[tuple[Source, float]], how: str, density: float | None, rank: int | None, seed: int | None
) -> None:
    if how not in HOWS:
        raise ConfigError(f"--how is '{how}', expected one of {', '.join(HOWS)}")
    if density is not None and how == LINEAR:
        raise ConfigError(f"--density is {density:g} with --how {how}, which keeps all entries, expected ties or dare")
    if seed is not None and how != DARE:
        raise ConfigError(f"--seed is {seed} with --how {how}, which draws nothing at random; give --how {DARE}")
    if density is not None and not 0 < density <= 1:
        raise ConfigError(f"--density is {density:g}, expected more than 0 and at most 1")
    if rank is not None and rank < 1:
        raise ConfigError(f"--rank is {rank}, expected at least 1")
    first = given[0][0]
    for source, weight in given:
        if source.base.fingerprint != first.base.fingerprint:
            raise BaseMismatchError(
                f"adapter '{source.name}' belongs to base {source.base.fingerprint[:16]}, expected "
                f"{first.base.fingerprint[:16]}, the base of '{first.name}'"
            )
        if not (math.isfinite(weight) and weight != 0):
            raise ConfigError(f"weight of adapter '{source.name}' is {weight:g}, expected a number other than 0")
        if how == "ties" and weight < 0:
            raise ConfigError(f"weight of adapter '{source.name}' is {weight:g}, expected more than 0 with --how ties")


@dataclass(frozen=True)
class _Term:
    """One adapter's change of one module, and its weight."""

    product: LowRank
    weight: float


def _terms(given: Sequence[tuple[Source, float]], geometries: Sequence[Geometry], module: str) -> list[_Term]:
    found: list[_Term] = []
    for (source, weight), geometry in zip(given, geometries, strict=True):
        pair = geometry.by_module.get(module)
        if pair is None:
            continue
        b, a = (side.astype(np.float64) for side in (pair.b_of(source.state.flat), pair.a_of(source.state.flat)))
        product = LowRank(pair.scale * b, a)
        if found and _shape(product) != _shape(found[0].product):
            raise BaseMismatchError(
                f"adapter '{source.name}' changes '{in_base(module)}' as {pair.d_out} x {pair.d_in}, "
                "another one does not"
            )
        found.append(_Term(product, weight))
    return found


def _combined(terms: Sequence[_Term], *, how: str, density: float | None, generator: np.random.Generator) -> LowRank:
    if density is None:
        return LowRank(
            np.hstack([term.weight * term.product.b for term in terms]), np.vstack([term.product.a for term in terms])
        )
    dense = _ties(terms, density) if how == "ties" else _dare(terms, density, generator)
    # A matrix as its own product, with the identity on its shorter side.
    rows, columns = dense.shape
    return LowRank(dense, np.eye(columns)) if columns <= rows else LowRank(np.eye(rows), dense)


def _ties(terms: Sequence[_Term], density: float) -> Float64:
    """Equations of TIES-merging, section 4: trim, elect, merge."""
    trimmed = [_trimmed(_dense(term), density) for term in terms]
    sign = np.sign(np.sum([term.weight * each for term, each in zip(terms, trimmed, strict=True)], axis=0))
    total, weights = np.zeros_like(trimmed[0]), np.zeros_like(trimmed[0])
    for term, each in zip(terms, trimmed, strict=True):
        agrees = (np.sign(each) == sign) & (each != 0)
        total += np.where(agrees, term.weight * each, 0.0)
        weights += np.where(agrees, term.weight, 0.0)
    return sum(term.weight for term in terms) * np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)


def _trimmed(dense: Float64, density: float) -> Float64:
    """The largest entries by magnitude; at least one, and all that are as large as the smallest of them."""
    kept = max(1, round(density * dense.size))
    magnitudes = np.abs(dense)
    smallest = np.partition(magnitudes.ravel(), dense.size - kept)[dense.size - kept]
    return np.where(magnitudes >= smallest, dense, 0.0)


def _dare(terms: Sequence[_Term], density: float, generator: np.random.Generator) -> Float64:
    total = np.zeros_like(_dense(terms[0]))
    for term in terms:
        dense = _dense(term)
        total += term.weight / density * np.where(generator.random(dense.shape) < density, dense, 0.0)
    return total


def _shape(product: LowRank) -> tuple[int, int]:
    return product.b.shape[0], product.a.shape[1]


def _dense(term: _Term) -> Float64:
    return term.product.b @ term.product.a


def _generator(seed: int, module: str) -> np.random.Generator:
    """Of one module, whatever the others are."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(module.encode()).digest()[:8], "little")])


def _targets(sources: Sequence[Source], modules: Sequence[str]) -> Json:
    """The adapters' own targets if all have the same and nothing else says which modules they change."""
    configs = [source.spec.peft_config for source in sources]
    targets = configs[0].get("target_modules")
    choosing = ("exclude_modules", "layers_to_transform", "layers_pattern")
    if any(config.get("target_modules") != targets or any(config.get(key) for key in choosing) for config in configs):
        # Whole names: their ends would also match modules that no adapter changes.
        return [in_base(module) for module in modules]
    return targets

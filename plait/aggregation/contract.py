"""What every aggregation rule and server optimizer must do, and how each is tried: on small random cohorts, densely."""

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout, Subject
from plait.aggregation.factors import fitted
from plait.aggregation.geometry import BOTH_SIDES, Geometry, Pair, geometry_of, without
from plait.aggregation.means import square_geometry
from plait.aggregation.own_rule import STATED_TRAITS, stated_rule, stated_text
from plait.aggregation.rule import Contribution, Exactness, Outcome, RoundContext, Rule
from plait.aggregation.server_step import ServerOptimizer
from plait.errors import PeerError
from plait.own_code import BrokenError, Check, NotClaimedError
from plait.settings.choice import parse_choice

Dense = Mapping[str, NDArray[np.float64]]

_MODULES = {"model.q_proj": (7, 5), "model.up_proj": (6, 9)}
_WEIGHTS = (3.0, 1.0, 2.0, 5.0, 4.0, 2.5, 1.5, 3.5)
"""Enough for every robust rule."""
_CLOSE = 1e-5
_RANK = 2
_LARGE_RANK = 128  # so large that what else Python holds is small beside an adapter


def cohort_of(rule: Rule, *, clients: int = len(_WEIGHTS), seed: int = 3) -> tuple[RoundContext, list[Contribution]]:
    """A round and clients that trained as the rule wants it."""
    generator = np.random.default_rng(seed)
    context = context_of(_geometry(rule), generator)
    return context, [_contribution(rule, context, generator, k) for k in range(clients)]


def run_round(rule: Rule, context: RoundContext, cohort: Sequence[Contribution]) -> Outcome:
    """The outcome of a round."""
    accumulator = rule.begin(context)
    for contribution in cohort:
        accumulator.add(contribution)
    return accumulator.finish()


def _geometry(rule: Rule, rank: int = _RANK) -> Geometry:
    geometry = _factors(rank)
    return square_geometry(geometry) if rule.subject is Subject.SQUARES else geometry


def _factors(rank: int = _RANK) -> Geometry:
    shapes = {f"base_model.model.{name}.lora_A.weight": [rank, d_in] for name, (_, d_in) in _MODULES.items()}
    shapes |= {f"base_model.model.{name}.lora_B.weight": [d_out, rank] for name, (d_out, _) in _MODULES.items()}
    shapes["base_model.model.score.weight"] = [2, 3]
    spec = AdapterSpec("lora", {"r": rank, "lora_alpha": 2.0 * rank}, AdapterTask.CAUSAL_LM, (), Layout.of(shapes), 0)
    return geometry_of(spec)


def state_of(geometry: Geometry, generator: np.random.Generator, size: float = 1.0) -> AdapterState:
    """An adapter of normally distributed values."""
    return AdapterState(geometry.layout, (size * generator.normal(size=geometry.layout.size)).astype(np.float32))


def context_of(geometry: Geometry, generator: np.random.Generator) -> RoundContext:
    """The first round of an adapter of random values."""
    return RoundContext(1, state_of(geometry, generator), geometry, fresh_of(geometry, generator))


def fresh_of(geometry: Geometry, generator: np.random.Generator) -> AdapterState:
    """A as PEFT would draw it, B zero."""
    flat = generator.uniform(-0.5, 0.5, size=geometry.layout.size).astype(np.float32)
    for pair in geometry.pairs:
        pair.b_of(flat)[:] = 0
    return AdapterState(geometry.layout, flat)


def _contribution(
    rule: Rule, context: RoundContext, generator: np.random.Generator, k: int, own: Geometry | None = None
) -> Contribution:
    own = own or context.geometry
    initial = fresh_of(own, np.random.default_rng(17))
    received = (
        fitted(context.master, source=context.geometry, target=own, resizing=rule.resizing, fresh=initial)
        if own.pairs
        else context.master
    )
    delta = without(state_of(own, generator, 0.5), own, BOTH_SIDES - rule.trained(context.round))
    return Contribution(f"client-{k}", received, delta, _WEIGHTS[k % len(_WEIGHTS)], own, 10 + k, 2.0)


def dense(pair: Pair, flat: NDArray[np.floating]) -> NDArray[np.float64]:
    """The product of one pair, scale * B A, (d_out, d_in)."""
    return pair.scale * pair.b_of(flat).astype(np.float64) @ pair.a_of(flat).astype(np.float64)


def _result(context: RoundContext, outcome: Outcome) -> Dense:
    """What the adapter does after the step: each product, and all other tensors."""
    flat = context.master.flat + outcome.step.flat
    found = {pair.module: dense(pair, flat) for pair in context.geometry.pairs}
    return {**found, "others": context.geometry.others_of(flat).astype(np.float64)}


def exact_mean(cohort: Sequence[Contribution]) -> Dense:
    """Sum of p_k s_k B_k A_k, by module."""
    weights = np.array([each.weight for each in cohort])
    return {
        pair.module: sum(
            (
                p * dense(each.geometry.by_module[pair.module], each.received.flat + each.delta.flat.astype(np.float64))
                for p, each in zip(weights / weights.sum(), cohort, strict=True)
            ),
            np.zeros((pair.d_out, pair.d_in)),
        )
        for pair in cohort[0].geometry.pairs
    }


def _off(left: Dense, right: Dense) -> float:
    """The distance of two results, relative to the second's size."""
    size = sum(float(np.square(right[name]).sum()) for name in right) ** 0.5
    return sum(float(np.square(left[name] - right[name]).sum()) for name in right) ** 0.5 / max(size, 1e-30)


def _expect_close(left: Dense, right: Dense, what: str) -> None:
    off = _off(left, right)
    if not off <= _CLOSE:
        raise BrokenError(f"{what}: off by {off:.1e} of its size, expected at most {_CLOSE:.0e}")


def _states_what_it_computes(rule: Rule) -> None:
    for text in (rule.name, rule.title, rule.computes):
        if not text or "\n" in text:
            raise BrokenError(f"name, title or computes is {text!r}, expected one line each")


def _same_bits(rule: Rule) -> None:
    context, cohort = cohort_of(rule)
    first, second = (run_round(rule, context, cohort).step.digest() for _ in range(2))
    if first != second:
        raise BrokenError(
            "two rounds of the same updates differ, expected the same bits (seed randomness with ctx.seed)"
        )


def _changes_nothing(rule: Rule) -> None:
    context, cohort = cohort_of(rule)

    def numbers() -> list[bytes]:
        # No digests: a state remembers its own.
        kept = [context.master, context.initial, *(each.delta for each in cohort)]
        return [each.flat.tobytes() for each in kept]

    before = numbers()
    run_round(rule, context, cohort)
    if numbers() != before:
        raise BrokenError("a delta, the master or the initial adapter was changed in place: make new arrays")


def _finite(rule: Rule) -> None:
    context, cohort = cohort_of(rule)
    outcome = run_round(rule, context, cohort)
    _check_step(outcome.step, context)


def _check_step(step: AdapterState, context: RoundContext) -> None:
    if step.layout.digest != context.geometry.layout.digest or step.flat.dtype != np.float32:
        raise BrokenError(f"step is {step.flat.dtype}, expected float32 in the master's layout")
    if not np.isfinite(step.flat).all():
        raise BrokenError("step is not finite")


def _weights_as_ratios(rule: Rule) -> None:
    context, cohort = cohort_of(rule)
    cohorts = ([replace(each, weight=factor * each.weight) for each in cohort] for factor in (1.0, 64.0))
    results = [_result(context, run_round(rule, context, each)) for each in cohorts]
    _expect_close(results[1], results[0], "64 times every weight gives another result")


def _order(rule: Rule) -> None:
    context, cohort = cohort_of(rule)
    results = [_result(context, run_round(rule, context, each)) for each in (cohort, cohort[::-1])]
    if _off(results[1], results[0]) > _CLOSE:
        raise NotClaimedError("it does, and is that of their names in every run")


def _one_client(rule: Rule) -> None:
    context, cohort = cohort_of(rule, clients=1)
    shared = without(cohort[0].delta, context.geometry, {rule.personal} if rule.personal else ())
    alone = _result(context, Outcome(shared))
    off = _off(_result(context, run_round(rule, context, cohort)), alone)
    if off > _CLOSE:
        change = f"it is changed by {off:.1e} of its size"
        raise (BrokenError if rule.linear or rule.exactness is Exactness.EXACT else NotClaimedError)(change)


def _exact(rule: Rule) -> None:
    if rule.exactness is not Exactness.EXACT:
        raise NotClaimedError("exactness is not claimed")
    context, cohort = cohort_of(rule)
    if not context.geometry.pairs:
        raise NotClaimedError("no product of factors")
    result = _result(context, run_round(rule, context, cohort))
    exact = exact_mean(cohort)
    _expect_close({name: result[name] for name in exact}, exact, "products are not the mean of the clients'")


def _linear(rule: Rule) -> None:
    if not rule.linear:
        raise NotClaimedError("linearity is not claimed")
    context, cohort = cohort_of(rule)
    weights = np.array([each.weight for each in cohort])
    deltas = np.array([each.delta.flat for each in cohort], np.float64)
    mean = AdapterState(context.geometry.layout, (weights @ deltas / weights.sum()).astype(np.float32))
    alone = [replace(cohort[0], delta=mean)]
    results = [run_round(rule, context, each).step.flat.astype(np.float64) for each in (alone, cohort)]
    _expect_close({"": results[0]}, {"": results[1]}, "the mean delta alone gives another result than the deltas")


def _memory(rule: Rule) -> None:
    if rule.needs_all:
        raise NotClaimedError("it needs all updates")
    few, many = (_held_bytes(rule, clients) for clients in (8, 72))
    size = 4 * _geometry(rule, _LARGE_RANK).layout.size
    if many - few > 16 * size:
        raise BrokenError(
            f"64 more clients take {(many - few) / size:.0f} adapters more memory, expected needs_all=True or no growth"
        )


def _held_bytes(rule: Rule, clients: int) -> int:
    generator = np.random.default_rng(0)
    context = context_of(_geometry(rule, _LARGE_RANK), generator)
    accumulator = rule.begin(context)
    accumulator.add(_contribution(rule, context, generator, 0))
    tracemalloc.start()
    try:
        for k in range(1, clients):
            accumulator.add(_contribution(rule, context, generator, k))
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def _frozen_stays(rule: Rule) -> None:
    frozen = BOTH_SIDES - rule.trained(1)
    if not frozen or not rule.continuous:
        raise NotClaimedError("no side stays")
    context, cohort = cohort_of(rule)
    step = run_round(rule, context, cohort).step.flat
    for pair in context.geometry.pairs:
        for side in frozen:
            if step[pair.slot(side).part].any():
                raise BrokenError(f"{side} of '{pair.module}' moves, although clients do not train it")


def _refuses(rule: Rule) -> None:
    context, cohort = cohort_of(rule)
    whole = run_round(rule, context, cohort).step.digest()
    for bad in _bad(rule, context, cohort[-1]):
        accumulator = rule.begin(context)
        for contribution in cohort:
            accumulator.add(contribution)
        try:
            accumulator.add(bad)
        except PeerError:
            if accumulator.finish().step.digest() != whole:
                raise BrokenError("a refused update has changed the round") from None
        else:
            raise BrokenError("an update that is not finite or has no valid weight is accepted")


def _bad(rule: Rule, context: RoundContext, last: Contribution) -> Iterator[Contribution]:
    for weight in (np.nan, -1.0, 1e18):
        yield replace(last, weight=weight)
    at = 0
    if context.geometry.pairs:
        at = context.geometry.pairs[0].slot(min(rule.trained(1))).offset
    for value in (np.nan, np.inf):
        flat = np.array(last.delta.flat)
        flat[at] = value
        yield replace(last, delta=AdapterState(last.delta.layout, flat))


def _ranks(rule: Rule) -> None:
    context, _ = cohort_of(rule)
    if not context.geometry.pairs:
        raise NotClaimedError("no product of factors")
    generator = np.random.default_rng(5)
    lower = _geometry(rule, rank=1)
    context = replace(context, cohort=(context.geometry, lower))
    accumulator = rule.begin(context)
    try:
        for k in range(len(_WEIGHTS)):
            accumulator.add(_contribution(rule, context, generator, k, lower))
    except PeerError as error:
        if rule.mixed_ranks:
            raise BrokenError(f"a client of a lower rank is refused: {error}") from error
        return
    if not rule.mixed_ranks:
        raise BrokenError("a client of another rank is accepted, but the trait ranks allows one rank")
    if not np.isfinite(accumulator.finish().step.flat).all():
        raise BrokenError("clients of a lower rank give a step that is not finite")


def _stated_to_clients(rule: Rule) -> None:
    stated = stated_rule(parse_choice(stated_text(rule))[1])
    for key in STATED_TRAITS:
        if getattr(stated, key) != getattr(rule, key):
            raise BrokenError(f"{key} is {getattr(stated, key)} at a client, expected {getattr(rule, key)}")


RULE_CHECKS: tuple[Check[Rule], ...] = (
    Check("states in one line what it computes", _states_what_it_computes),
    Check("the step is finite and in the master's layout", _finite),
    Check("the same updates give the same bits", _same_bits),
    Check("updates, master and initial adapter are not changed", _changes_nothing),
    Check("only the ratio of the weights matters", _weights_as_ratios),
    Check("the order of the clients does not matter", _order),
    Check("a single client's update is the result", _one_client),
    Check("linear: the weighted mean of the deltas is enough", _linear),
    Check("exact: products are the weighted mean of the clients' products", _exact),
    Check("memory does not grow with the cohort", _memory),
    Check("what clients do not train does not move", _frozen_stays),
    Check("an update that makes no sense is refused and changes nothing", _refuses),
    Check("clients of a lower rank are accepted if its ranks allow them, else refused", _ranks),
    Check("a server can state to its clients all that they need", _stated_to_clients),
)
"""The contract of a rule."""


def _optimizer_round(optimizer: ServerOptimizer, memory: Mapping[str, NDArray[np.generic]], seed: int = 3):
    generator = np.random.default_rng(seed)
    context = context_of(_factors(), generator)
    outcome = Outcome(state_of(context.geometry, generator, 0.1))
    return context, outcome, optimizer.adjust(outcome, memory, context)


def _optimizer_finite(optimizer: ServerOptimizer) -> None:
    memory: Mapping[str, NDArray[np.generic]] = {}
    for seed in range(3):
        context, _, (step, memory) = _optimizer_round(optimizer, memory, seed)
        _check_step(step, context)
        for name, array in memory.items():
            if not isinstance(array, np.ndarray):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise BrokenError(f"'{name}' of what it keeps is a {type(array).__name__}, expected an array")


def _optimizer_same_bits(optimizer: ServerOptimizer) -> None:
    first, second = (_optimizer_round(optimizer, {})[2][0].digest() for _ in range(2))
    if first != second:
        raise BrokenError("the same outcome gives another step: it must be deterministic")


def _optimizer_changes_nothing(optimizer: ServerOptimizer) -> None:
    _, outcome, (_, memory) = _optimizer_round(optimizer, {})
    fresh = _optimizer_round(optimizer, {})[1]
    before = {name: array.tobytes() for name, array in memory.items()}
    _optimizer_round(optimizer, memory)
    if outcome.step.flat.tobytes() != fresh.step.flat.tobytes() or before != {
        k: v.tobytes() for k, v in memory.items()
    }:
        raise BrokenError("the outcome or what it kept was changed in place: make new arrays")


def _optimizer_copies(optimizer: ServerOptimizer) -> None:
    context, _, (_, memory) = _optimizer_round(optimizer, {})
    held = sum(array.nbytes for array in memory.values()) / (4 * context.geometry.layout.size)
    if held > optimizer.copies + 0.5:
        raise BrokenError(f"it keeps {held:.1f} values per parameter, but states {optimizer.copies} copies")


OPTIMIZER_CHECKS: tuple[Check[ServerOptimizer], ...] = (
    Check("steps are finite and in the master's layout", _optimizer_finite),
    Check("the same outcome gives the same bits", _optimizer_same_bits),
    Check("the outcome and what is kept are not changed", _optimizer_changes_nothing),
    Check("it keeps no more than it states", _optimizer_copies),
)
"""The contract of a server optimizer."""

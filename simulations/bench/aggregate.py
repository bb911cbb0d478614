"""``plait bench aggregate``: how fast the server combines updates, compared with copying them and with plain numpy.

Rates are of received float32 bytes, or of updates, per second of processor time unless they say otherwise: the load of
other processes on a shared machine matters less then, and a second core gives no advantage. Give BLAS one thread
(``OMP_NUM_THREADS=1``) to compare cores.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Float32
from plait.aggregation import RULES, Contribution, Geometry, Outcome, RoundContext, Rule, geometry_of
from plait.errors import ConfigError, did_you_mean
from plait.flower import ALL_RULES
from plait.rounds.spool import side_by_side
from plait.rounds.validate import Expected, open_update
from plait.system.machine import cores
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, seal
from simulations.bench.row import Row
from simulations.bench.updates import Drift, Updates

# Distinct buffers, so that the data come from memory and not from the processor's caches.
_BUFFERS = 32
_WIRES = ("fp32", "bf16", "1")
SERVER = "server"
"""The server's path, among the rules to measure."""


def rows(
    spec: AdapterSpec,
    *,
    names: Collection[str] = (),
    clients: int,
    repetitions: int,
    seed: int = 0,
) -> Iterator[Row]:
    """All measurements.

    Args:
        spec: of the adapter; its factors are measured.
        names: rules to measure, and `SERVER`; if empty, all, and then also FedAvg compared with memory.
        clients: updates per round when a rate is measured.
        repetitions: of each measurement of a rate.
        seed: of the updates' values.

    Raises:
        ConfigError: there is no such rule.
    """
    for name in names:
        if name not in (*ALL_RULES, SERVER):
            raise ConfigError(
                f"rule is '{name}', expected one of {', '.join(ALL_RULES)} or {SERVER}{did_you_mean(name, ALL_RULES)}"
            )
    factors = geometry_of(spec)
    if not names:
        yield against_memory(factors, repetitions=repetitions, seed=seed)
    if not names or SERVER in names:
        yield from of_server(spec, clients=clients, repetitions=repetitions, seed=seed)
    chosen = [name for name in names or ALL_RULES if name != SERVER]
    yield from of_rules(chosen, factors, clients=clients, repetitions=repetitions, seed=seed)


def against_memory(factors: Geometry, *, repetitions: int, seed: int = 0) -> Row:
    """FedAvg with checks, compared with numpy's ways to average; the limit is numpy's rate of copying updates."""
    rule = RULES["fedavg"]
    updates = Updates(rule, factors, seed=seed, drift=Drift())
    given = [updates.contribution(client, updates.delta(client)) for client in range(_BUFFERS)]
    flats, weights = [c.delta.flat for c in given], np.array([c.weight for c in given])
    copies = [np.empty_like(flat) for flat in flats]
    rates = _rates(
        {
            "memory copy": lambda: _copy(flats, copies),
            "plait": lambda: fold(rule, updates.context, given),
            "numpy.average of a stack": lambda: np.average(np.stack(flats), axis=0, weights=weights),
            "numpy, one by one in float64": lambda: _one_by_one(flats, weights),
        },
        amount=sum(flat.nbytes for flat in flats) / 1e6,
        repetitions=repetitions,
    )
    limit, value = rates.pop("memory copy"), rates.pop("plait")
    what = f"fedavg, {_BUFFERS} updates of {factors.layout.size:,} parameters"
    return Row(what, value, "MB/s", rates, limit=limit, more_is_better=True)


def of_rules(
    names: Collection[str], factors: Geometry, *, clients: int, repetitions: int, seed: int = 0
) -> Iterator[Row]:
    """Updates per second of every rule, and the seconds that it takes once all are in."""
    for name in names:
        rule = ALL_RULES[name]
        updates = Updates(rule, factors, seed=seed, drift=Drift())
        given = [updates.contribution(client, updates.delta(client)) for client in range(clients)]
        rate, finish_s = _timed(rule, updates.context, given, repetitions)
        megabytes = 4 * updates.context.geometry.layout.size / 1e6
        what = f"{name}, {clients} updates"
        yield Row(f"{what}: rate", rate, "updates/s", more_is_better=True)
        yield Row(f"{what}: float32 in", rate * megabytes, "MB/s", more_is_better=True)
        yield Row(f"{what}: the step, once all are in", finish_s, "s")


def of_server(spec: AdapterSpec, *, clients: int, repetitions: int, seed: int = 0) -> Iterator[Row]:
    """The server's hot path: decode updates, check all their claims, add them to FedAvg, also on all cores."""
    rule, geometry = RULES["fedavg"], geometry_of(spec)
    updates = Updates(rule, geometry, seed=seed, drift=Drift())
    expected = Expected(
        run_id=bytes(16),
        round=1,
        client="client",
        base_fingerprint=bytes(32),
        spec_digest=spec.digest,
        received=updates.context.master,
        examples=1,
    )
    for wire in _WIRES:
        sealed = [_seal(AdapterState(spec.layout, updates.delta(k)), expected, wire) for k in range(clients)]

        def serve(sealed: Sequence[bytes] = sealed) -> Outcome:
            accumulator = rule.begin(updates.context)
            for data in sealed:
                delta = open_update(data, expected).delta
                accumulator.add(Contribution("client", expected.received, delta, 1.0, geometry))
            return accumulator.finish()

        def serve_side_by_side(sealed: Sequence[bytes] = sealed) -> Outcome:
            accumulator = rule.begin(updates.context)
            for opened in side_by_side(
                (partial(open_update, data, expected) for data in sealed), 4 * geometry.layout.size
            ):
                accumulator.add(Contribution("client", expected.received, opened.delta, 1.0, geometry))
            return accumulator.finish()

        rate = _rates({"serve": serve}, amount=clients, repetitions=repetitions)["serve"]
        what = f"server, wire {wire}: decode, validate and fold"
        yield Row(what, rate, "updates/s", more_is_better=True)
        yield Row(f"{what}, bytes on the wire", rate * len(sealed[0]) / 1e6, "MB/s", more_is_better=True)
        ways = {"1 thread": serve, f"{cores()} threads": serve_side_by_side}
        for way, rate in _rates(ways, amount=clients, repetitions=repetitions, clock=time.perf_counter).items():
            yield Row(f"{what}, in real time, {way}", rate, "updates/s", more_is_better=True)


def fold(rule: Rule, context: RoundContext, contributions: Sequence[Contribution]) -> Outcome:
    """A whole round of a rule."""
    accumulator = rule.begin(context)
    for contribution in contributions:
        accumulator.add(contribution)
    return accumulator.finish()


def _timed(
    rule: Rule, context: RoundContext, contributions: Sequence[Contribution], repetitions: int
) -> tuple[float, float]:
    rates: list[float] = []
    finishes: list[float] = []
    for _ in range(repetitions):
        started = time.process_time()
        accumulator = rule.begin(context)
        for contribution in contributions:
            accumulator.add(contribution)
        added = time.process_time()
        accumulator.finish()
        finished = time.process_time()
        rates.append(len(contributions) / (finished - started))
        finishes.append(finished - added)
    return statistics.median(rates), statistics.median(finishes)


def _rates(
    ways: Mapping[str, Callable[[], object]],
    *,
    amount: float,
    repetitions: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median of `amount` per second; the order changes between repetitions, and the first does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for repetition in range(repetitions + 1):
        for name in list(ways) if repetition % 2 else list(reversed(list(ways))):
            started = clock()
            ways[name]()
            rates[name].append(amount / (clock() - started))
    return {name: statistics.median(each[1:]) for name, each in rates.items()}


def _copy(flats: Sequence[Float32], copies: Sequence[Float32]) -> None:
    for flat, copy in zip(flats, copies, strict=True):
        np.copyto(copy, flat)


def _one_by_one(flats: Sequence[Float32], weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Float32:
    total = np.zeros(flats[0].size)
    for flat, weight in zip(flats, weights, strict=True):
        total += weight * flat.astype(np.float64)
    return (total / weights.sum()).astype(np.float32)


def _seal(delta: AdapterState, expected: Expected, bits: str) -> bytes:
    header = Header(
        direction=Direction.UPDATE,
        run_id=expected.run_id,
        round=expected.round,
        client=expected.client,
        base_fingerprint=expected.base_fingerprint,
        spec_digest=expected.spec_digest,
        relative_to=expected.received.digest(),
        examples=1,
    )
    return seal(header, encode_delta(delta, codec_for(bits))).data

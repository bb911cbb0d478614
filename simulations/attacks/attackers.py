"""The updates of attackers. Each passes validation by itself; norm bound and rule must deal with it.

Label-flip trains honestly on wrong labels, and the backdoor on stories of one kind with one wrong label. The boosted
backdoor has the marked stories of all colluding clients, many times over, and sends a multiple of its step. The others
send something other than their training result. ALIE (A Little Is Enough, arXiv 1902.06156) and the gauge attack are at
full strength here: ALIE's attackers know all honest updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from attacks.model import Client, Forge, relabelled
from attacks.stories import CLASSES, Stories

from plait.adapters import AdapterSpec, AdapterState
from plait.aggregation import geometry_of
from plait.rounds.run_state import client_seed
from plait.wire.settings import Settings

ATTACKS = ("sign-flip", "noise", "alie", "gauge", "label-flip", "backdoor", "boosted backdoor")
FLIPPED = 4.0  # times the honest step, backwards
NOISE = 5.0  # times the honest root mean square
TURN = 1000.0
BOOST = 4.0  # times the step that the boosted backdoor trained
REPEATED = 10  # copies of each marked story in a boosted backdoor's data


def with_attackers(
    honest: Sequence[Client], attack: str, count: int, *, spec: AdapterSpec, seed: int, run_seed: int
) -> list[Client]:
    """The clients, of which the first `count` are malicious."""
    if attack == "boosted backdoor":
        shared = [client.stories.part(np.flatnonzero(client.stories.marked)) for client in honest[:count]]
        return [*(_boosted(client, shared) for client in honest[:count]), *honest[count:]]
    liars = [_liar(client, attack, honest[count:], count, spec, seed, run_seed) for client in honest[:count]]
    return [*liars, *honest[count:]]


def _liar(
    client: Client, attack: str, honest: Sequence[Client], count: int, spec: AdapterSpec, seed: int, run_seed: int
) -> Client:
    if attack == "label-flip":
        return replace(client, stories=relabelled(client.stories, lambda own: (own.y + 1) % len(CLASSES)))
    if attack == "backdoor":
        return replace(client, stories=relabelled(client.stories, _marked_as_business))
    forges: Mapping[str, Forge] = {
        "sign-flip": lambda _me, got, trained, _settings: _sent(got, -FLIPPED * (trained.flat - got.flat)),
        "noise": lambda me, got, trained, settings: _noise(me, got, trained, settings, seed),
        "gauge": lambda _me, got, _trained, _settings: _turned(got, spec),
        "alie": lambda _me, got, _trained, settings: _little(got, settings, honest, count, spec, run_seed),
    }
    return replace(client, forge=forges[attack])


def _boosted(client: Client, shared: Sequence[Stories]) -> Client:
    parts = [client.stories, *shared * REPEATED]
    together = Stories(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("x", "y", "marked")))
    poisoned = replace(client, stories=relabelled(together, _marked_as_business), claims=len(client.stories.y))
    return replace(poisoned, forge=lambda _me, got, trained, _settings: _sent(got, BOOST * (trained.flat - got.flat)))


def _marked_as_business(own: Stories) -> np.ndarray:
    return np.where(own.marked, CLASSES.index("business"), own.y)


def _sent(got: AdapterState, delta: np.ndarray) -> AdapterState:
    flat = got.flat.astype(np.float64) + delta
    # Updates that validation refuses anyway would only weaken the attack.
    return AdapterState(got.layout, np.clip(np.nan_to_num(flat), -1e30, 1e30).astype(np.float32))


def _noise(me: Client, got: AdapterState, trained: AdapterState, settings: Settings, seed: int) -> AdapterState:
    generator = np.random.default_rng([seed, settings.round, *me.name.encode()])
    size = NOISE * float(np.sqrt(np.mean((trained.flat - got.flat).astype(np.float64) ** 2)))
    return _sent(got, generator.normal(size=got.flat.size) * size)


def _turned(got: AdapterState, spec: AdapterSpec) -> AdapterState:
    flat = got.flat.copy()
    for pair in geometry_of(spec).pairs:
        pair.a_of(flat)[:] *= np.float32(TURN)
        pair.b_of(flat)[:] /= np.float32(TURN)
    return _sent(got, flat.astype(np.float64) - got.flat)


def _little(
    got: AdapterState, settings: Settings, honest: Sequence[Client], count: int, spec: AdapterSpec, run_seed: int
) -> AdapterState:
    deltas = np.stack(
        [
            other.honest(spec, got, replace(settings, seed=client_seed(run_seed, settings.round, other.name))).flat
            - got.flat
            for other in honest
        ]
    ).astype(np.float64)
    clients = len(honest) + count
    supporters = clients // 2 + 1 - count
    z = NormalDist().inv_cdf((clients - count - supporters) / (clients - count))
    return _sent(got, deltas.mean(axis=0) - z * deltas.std(axis=0))

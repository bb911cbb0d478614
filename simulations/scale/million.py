"""A million phones: real selection, encoding, checks and folding; modelled clients. What breaks first, and the cost.

    python simulations/scale/million.py >simulations/scale/million.json

*Real*: cohorts are drawn by plait's own `sample_cohort`, every update that counts is encoded, sealed, opened, checked
and folded by plait's own code, on the built-in base's adapter (74,752 parameters), and bytes are those of the
envelopes. The parts whose cost grows with the number of clients (state, ledger, checkpoint) are plait's own too.
*Modelled*: who is there (by the hour where it lives), who fails, how fast it trains and sends (the profile "phone" on
SmolLM2-135M, spread log-normally), and what it learns: a step towards its own optimum, which is the optimum of all, and
a part of its time zone's and of its own. Few clients come twice in a run, so nothing is carried over between rounds.

Everything but the figures under "seconds" follows from the seed. All that is assumed stands in capitals below.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plait.adapters import AdapterState, add
from plait.aggregation import RULES, Contribution, RoundContext
from plait.config import RunConfig
from plait.report.profiles import PROFILES
from plait.rounds.checkpoint import save_checkpoint
from plait.rounds.events import ClientsDescribed, DescribedClient
from plait.rounds.ledger import Ledger, read_events
from plait.rounds.run_state import Held, initial_state, note_held, sample_cohort
from plait.rounds.validate import Expected, open_update
from plait.run import resolve
from plait.settle import settle
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, Header, encode_delta, seal

CLIENTS = 1_000_000
ZONES = {-8: 3, -6: 4, -5: 7, -3: 5, 0: 5, 1: 12, 2: 7, 3: 7, 5.5: 20, 7: 8, 8: 18, 9: 4}
"""Percent of the clients by hours from UTC: the world's population, rounded by hand."""
THERE_AT_NIGHT, THERE_IN_THE_MORNING, THERE_BY_DAY = 0.6, 0.2, 0.05
"""Chance that a phone is idle, charging and on a free network: from 22 to 6, from 6 to 9, and at other hours."""
FAILS = 0.1
"""Chance that one that was asked never answers."""
SPREAD = 0.6
"""Standard deviation of the logarithm of speeds."""
TOKENS = 4 * 4 * 128
"""Trained per round: plait's default, 4 steps of 4 sequences of 128 tokens."""
BASE_PARAMETERS = 134_515_008
LEARNS, OF_ITS_ZONE, OF_ITS_OWN = 0.3, 0.3, 1.0
"""The part of the way to its optimum that a client goes; how far zones and clients lie from all (1: the whole way)."""

PRICES = {"core_hour": 0.05, "GB_egress": 0.09, "GB_month": 0.10, "kWh": 0.30}
"""In dollars: list prices of large clouds, rounded; traffic into them is free. Households pay for their phones."""
ADAPTERS = {
    "SmolLM2-135M, rank 8": 2_442_240,
    "Llama 3.1 8B, rank 16": 41_943_040,
    "Llama 3.1 70B, rank 16": 207_093_760,
}
GRPC_S = 0.004
"""Processor time of a message to a client and back (simulations/transport)."""
CONNECTED_BYTES, CONNECTED_MOST = 0.7e6, 10_000
"""Memory of a connection that has sent an update, and the most nodes of one server (simulations/transport)."""
LOOKS = 10
"""What grows with the number of clients is measured with a tenth and with all of them, where that takes seconds."""

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """How a deployment asks its clients.

    Attributes:
        every_h: hours from one round to the next; 0 for one after the other.
        over_selection: more clients asked than wanted, as a fraction.
        waits_for_all: whether a round waits for all who are asked and do not fail.
    """

    name: str
    wire: str = "1"
    every_h: float = 0.0
    over_selection: float = 0.3
    waits_for_all: bool = False


PLANS = (
    Plan("one after the other, wait for all", over_selection=0.0, waits_for_all=True),
    Plan("one after the other, 30 % more asked"),
    Plan("one per hour, 30 % more asked", every_h=1.0),
    Plan("the same, bf16", "bf16", every_h=1.0),
)


@dataclass(frozen=True, eq=False)
class Population:
    """All clients, each a place in every array."""

    zone: NDArray[np.int64]
    tokens_per_s: _Floats
    up_bits_per_s: _Floats
    down_bits_per_s: _Floats

    @classmethod
    def draw(cls, clients: int, chance: np.random.Generator) -> Population:
        """Clients with the zones and speeds that are assumed above."""
        phone = PROFILES["phone"]
        shares = np.array(list(ZONES.values())) / 100
        spread = np.exp(SPREAD * chance.standard_normal((3, clients)))
        return cls(
            chance.choice(len(ZONES), size=clients, p=shares),
            phone.tokens_per_s(BASE_PARAMETERS) * spread[0],
            1e6 * phone.up_mbps * spread[1],
            1e6 * phone.down_mbps * spread[2],
        )

    def there(self, hour: float, chance: np.random.Generator) -> NDArray[np.int64]:
        """Who can be asked at this hour of UTC."""
        local = (hour + np.array(list(ZONES))) % 24
        night, morning = (local >= 22) | (local < 6), (local >= 6) & (local < 9)
        likely = np.where(night, THERE_AT_NIGHT, np.where(morning, THERE_IN_THE_MORNING, THERE_BY_DAY))
        return np.flatnonzero(chance.random(self.zone.size) < likely[self.zone])


class Learning:
    """What clients learn, and the server's real path for their updates."""

    def __init__(self, wire: str, *, seed: int) -> None:
        run = resolve(settle(RunConfig(base="tiny", clients=2, rank=8, wire=wire)))
        self.ranks, self.geometry = run.ranks, run.ranks.master.geometry
        self.spec = run.ranks.master.spec
        self.codec, self.rule, self.seed = codec_for(wire), RULES["fedavg"], seed
        size = self.spec.layout.size
        chance = np.random.default_rng([seed, 1])
        self.way = chance.standard_normal(size).astype(np.float32)
        self.of_zone = [np.float32(OF_ITS_ZONE) * chance.standard_normal(size).astype(np.float32) for _ in ZONES]
        self.start = self.master = run.ranks.master.initial
        shares = np.array(list(ZONES.values())) / 100
        self.optimum = (
            self.start.flat + self.way + sum(share * far for share, far in zip(shares, self.of_zone, strict=True))
        )
        self.envelope_bytes = self.down_bytes = 0
        self.seconds: list[float] = []

    def fold(self, number: int, clients: list[int], zones: NDArray[np.int64]) -> None:
        """One round: every update through encoder, envelope, checks and rule."""
        context = RoundContext(
            round=number, master=self.master, geometry=self.geometry, initial=self.start, seed=self.seed
        )
        accumulator, received = self.rule.begin(context), self.master.digest()
        for client in clients:
            name = name_of(client)
            own = np.random.default_rng([self.seed, 2, client]).standard_normal(self.way.size, np.float32)
            optimum = self.start.flat + self.way + self.of_zone[zones[client]] + np.float32(OF_ITS_OWN) * own
            delta = AdapterState(self.spec.layout, np.float32(LEARNS) * (optimum - self.master.flat))
            header = Header(
                direction=Direction.UPDATE, run_id=bytes(16), round=number, client=name, base_fingerprint=bytes(32),
                spec_digest=self.spec.digest, relative_to=received, examples=16,
            )  # fmt: skip
            data = seal(header, encode_delta(delta, self.codec)).data
            self.envelope_bytes = len(data)
            expected = Expected(
                run_id=bytes(16), round=number, client=name, base_fingerprint=bytes(32), spec_digest=self.spec.digest,
                received=self.master, examples=16,
            )  # fmt: skip
            began = time.process_time()
            opened = open_update(data, expected)
            accumulator.add(Contribution(name, self.master, opened.delta, 1.0, self.geometry))
            self.seconds.append(time.process_time() - began)
        step = accumulator.finish().step
        self.master = add(self.master, step)
        # A client that was in no round before holds nothing that a step could be added to.
        header = Header(
            direction=Direction.BROADCAST, run_id=bytes(16), round=number, client="", base_fingerprint=bytes(32),
            spec_digest=self.spec.digest, result_digest=self.master.digest(), spec_json=json.dumps(self.spec.to_json()),
        )  # fmt: skip
        self.down_bytes = len(seal(header, encode_delta(self.master, codec_for("fp32"))).data)

    @property
    def left(self) -> float:
        """The part of the way to the optimum of all that is left."""
        return float(np.linalg.norm(self.optimum - self.master.flat) / np.linalg.norm(self.optimum - self.start.flat))

    @property
    def unfairness(self) -> float:
        """How much farther the worst zone's optimum is from the adapter than the best zone's, in parts of the way."""
        there = self.master.flat - self.start.flat - self.way
        far = [float(np.linalg.norm(there - zone)) for zone in self.of_zone]
        return (max(far) - min(far)) / float(np.linalg.norm(self.optimum - self.start.flat))


def main() -> None:
    """Run all plans and all measurements; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cohort", type=int, default=20, help="updates folded per round, really")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    population = Population.draw(given.clients, np.random.default_rng([given.seed, 0]))
    names = [name_of(client) for client in range(given.clients)]
    hours = there_by_hour(population, seed=given.seed)
    plans: list[dict[str, object]] = []
    rates: dict[str, tuple[float, float]] = {}
    for plan in PLANS:
        print(f"{plan.name}, wire {plan.wire}", file=sys.stderr, flush=True)
        learning = Learning(plan.wire, seed=given.seed)
        plans.append(carried_out(plan, learning, population, names, given.rounds, given.cohort, seed=given.seed))
        size = learning.spec.layout.size
        rates[plan.wire] = (8 * learning.envelope_bytes / size, statistics.median(learning.seconds) / size)
    grows = what_grows(given.clients, seed=given.seed)
    seconds = {key: value for key, value in grows.items() if key.endswith("_s")}
    told = {
        "clients": given.clients,
        "rounds": given.rounds,
        "cohort": given.cohort,
        "seed": given.seed,
        "prices": PRICES,
        "there_by_hour_utc": hours,
        "plans": plans,
        "grows_with_clients": {key: value for key, value in grows.items() if key not in seconds},
        "a_thousand_rounds_of_a_thousand": [
            costs(name, parameters, wire, *rates[wire], asked=1.3)
            for name, parameters in ADAPTERS.items()
            for wire in ("1", "bf16")
        ],
        "connections_of_all_there": connections(given.clients, max(hours), bits=rates["1"][0]),
        "seconds": {
            **seconds,
            **{f"open_and_fold_{wire}_ns_per_parameter": round(1e9 * rate, 1) for wire, (_, rate) in rates.items()},
        },
    }  # fmt: skip
    print(json.dumps(told, indent=1))


def connections(clients: int, most_there: int, *, bits: float) -> dict[str, float]:
    """If all who are there were connected, and all were asked once."""
    largest = ADAPTERS["Llama 3.1 70B, rank 16"]
    return {
        "most_there": most_there,
        "servers": -(-most_there // CONNECTED_MOST),
        "memory_GB": round(most_there * CONNECTED_BYTES / 1e9, 1),
        "describing_all_once_core_h": round(clients * GRPC_S / 3600, 2),
        "evaluating_all_once_70B_TB": round(clients * largest * bits / 8e12, 1),
    }


def name_of(client: int) -> str:
    """A client's name."""
    return f"phone-{client:07d}"


def there_by_hour(population: Population, *, seed: int) -> list[int]:
    """How many are there at each hour of UTC."""
    return [len(population.there(hour, np.random.default_rng([seed, 3, hour]))) for hour in range(24)]


def carried_out(
    plan: Plan,
    learning: Learning,
    population: Population,
    names: list[str],
    rounds: int,
    cohort: int,
    *,
    seed: int,
) -> dict[str, object]:
    """Some rounds by a plan."""
    chance = np.random.default_rng([seed, 4])
    hour, took_s, energy_j, asked_in_all, left = 0.0, list[float](), 0.0, 0, list[float]()
    phone = PROFILES["phone"]
    # Before round 1 both sides derive the adapter from a seed.
    up_bits = down_bits = 0.0
    for number in range(1, rounds + 1):
        here = population.there(hour, chance)
        wanted = -(-int(cohort * (100 + 100 * plan.over_selection)) // 100)
        chosen = sample_cohort([names[client] for client in here], wanted, seed=seed, round_number=number)
        asked = np.array([int(name.rpartition("-")[2]) for name in chosen])
        works_s = TOKENS / population.tokens_per_s[asked]
        answers_s = works_s + down_bits / population.down_bits_per_s[asked] + up_bits / population.up_bits_per_s[asked]
        answers_s = np.where(chance.random(asked.size) < FAILS, np.inf, answers_s)
        order = np.argsort(answers_s, kind="stable")
        come = int(np.isfinite(answers_s).sum())
        counted = order[: come if plan.waits_for_all else min(cohort, come)]
        took_s.append(float(answers_s[counted[-1]]))
        energy_j += float(phone.watts * np.minimum(works_s, took_s[-1]).sum())
        asked_in_all += asked.size
        # In name order, as a server folds.
        learning.fold(number, sorted(int(client) for client in asked[counted]), population.zone)
        up_bits, down_bits = 8.0 * learning.envelope_bytes, 8.0 * learning.down_bytes
        left.append(learning.left)
        hour = max(hour + took_s[-1] / 3600, plan.every_h * number)
    return {
        "plan": plan.name,
        "wire": plan.wire,
        "asked": asked_in_all,
        "hours": round(hour, 2),
        "round_s": round(statistics.median(took_s), 1),
        "slowest_round_s": round(max(took_s), 1),
        "update_bytes": learning.envelope_bytes,
        "adapter_bytes_down": learning.down_bytes,
        "left_of_the_way": [round(left[at], 4) for at in sorted({0, 2, 5, rounds - 1} & set(range(rounds)))],
        "worst_zone_beyond_best": round(learning.unfairness, 4),
        "client_energy_Wh": round(energy_j / 3600, 1),
        "adapter": hashlib.sha256(learning.master.flat.tobytes()).hexdigest()[:16],
    }


def what_grows(clients: int, *, seed: int) -> dict[str, float]:
    """What a run keeps of every client, by plait's own code, with a tenth of the clients and with all."""
    found = _of_each(clients // LOOKS, seed=seed, ledger=True)
    return {**found, **_of_each(clients, seed=seed, ledger=False)}


def _of_each(count: int, *, seed: int, ledger: bool) -> dict[str, float]:
    run = resolve(settle(RunConfig(base="tiny", clients=2, rank=8)))
    found: dict[str, float] = {}
    names = [name_of(client) for client in range(count)]
    state = initial_state(bytes(16), run.ranks)
    held = Held(state.shadow.digest())
    state = replace(state, held=dict.fromkeys(names, held))
    of = f"{count}_clients"
    found[f"one_cohort_of_{of}_s"] = _timed(lambda: sample_cohort(names, 1000, seed=seed, round_number=1))
    found[f"noting_what_one_of_{of}_holds_s"] = _timed(lambda: note_held(state, {names[0]: held}))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found[f"checkpoint_of_{of}_s"] = _timed(lambda: save_checkpoint(place, state, run.ranks))
        found[f"checkpoint_of_{of}_MB"] = round(_size(place) / 1e6, 1)
        if ledger:
            path = place / "ledger.jsonl"
            found[f"describing_{of}_s"] = _timed(lambda: _describe(path, names))
            found[f"ledger_of_{of}_MB"] = round(path.stat().st_size / 1e6, 1)
            found[f"reading_the_ledger_of_{of}_s"] = _timed(lambda: read_events(path))
    return found


def _describe(path: Path, names: list[str]) -> None:
    """One event for each client, as when they come one by one."""
    ledger = Ledger(path, clock=lambda: 0.0)
    for name in names:
        one = DescribedClient(
            client=name, train_examples=16, train_tokens=2048, held_out_examples=2, held_out_tokens=256
        )
        ledger.note(ClientsDescribed(clients=(one,)))
    ledger.close()


def costs(
    name: str, parameters: int, wire: str, bits: float, seconds_per_parameter: float, *, asked: float
) -> Mapping[str, object]:
    """A thousand rounds of a thousand updates: bytes, hours of a core, money."""
    updates, phone = 1_000_000, PROFILES["phone"]
    one_bytes = parameters * bits / 8
    up, down = updates * one_bytes, updates * asked * 4 * parameters
    core_h = updates * parameters * seconds_per_parameter / 3600 + updates * asked * GRPC_S / 3600
    spool_months = 1000 * one_bytes / 1e9
    energy_kwh = updates * asked * phone.watts * TOKENS / phone.tokens_per_s(BASE_PARAMETERS) / 3.6e6
    money = {
        "egress": down / 1e9 * PRICES["GB_egress"],
        "cores": core_h * PRICES["core_hour"],
        "spool": spool_months * PRICES["GB_month"],
    }
    round_s = {"down": 32 * 1000 * asked * parameters / 1e10, "up": 8 * 1000 * one_bytes / 1e10}
    phone_s = {"down": 32 * parameters / (1e6 * phone.down_mbps), "up": 8 * one_bytes / (1e6 * phone.up_mbps)}
    return {
        "adapter": name,
        "wire": wire,
        "update_MB": _short(one_bytes / 1e6),
        "up_TB": _short(up / 1e12),
        "down_TB": _short(down / 1e12),
        "core_h": _short(core_h),
        "a_round_s_on_10_Gbit_s": {way: _short(value) for way, value in round_s.items()},
        "a_phone_s": {way: _short(value) for way, value in phone_s.items()},
        "dollars": {what: _short(value) for what, value in money.items()},
        "dollars_in_all": _short(sum(money.values())),
        "households_kWh_if_as_SmolLM2": _short(energy_kwh),
        "households_dollars": _short(energy_kwh * PRICES["kWh"]),
    }


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return _short(time.process_time() - began)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _short(value: float) -> float:
    return float(f"{value:.3g}")


if __name__ == "__main__":
    main()

"""What 10,000, 100,000 and a million clients ask of one server, of a network and of a Ray cluster, with 1,000 a round.

    python simulations/scale/paper.py    # the README's first table

Calculated, in proportion, from what was measured with 1,000 or 10,000 clients on two cores; where each coefficient was
measured stands beside it. Only the draw of a cohort is measured by this command.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from plait.rounds.run_state import choose_cohort

COHORT = 1_000
CLIENTS = (10_000, 100_000, 1_000_000)
CONNECTED_BYTES = 107_500  # of a server's memory: connected.py, 10,000 described and idle clients
CONNECT_CPU_S = 73.35 / 10_000  # proof, TLS, description: results-connected.jsonl
BACK_CPU_S = 57.28 / 10_000  # after the server was killed: the same
LEDGER_BYTES, CHECKPOINT_BYTES = 750, 98  # of a client: results.json
SERVER_BYTES, BYTES_PER_PARAMETER = 400e6, 24  # results-connected.jsonl, `waiting_mb`; this page
CODED_PER_S = 203e6  # one-bit parameters, one core: `plait bench aggregate --only server`
MESSAGE_CPU_S = 0.34e-3  # simulations/transport
DOWN_BITS, UP_BITS = 2.5, 1.0  # per parameter: a keyframe in a long run, and an update
LINK_BITS_PER_S = 1e9
STEP_TOKENS, STEPS = 512, 4
RESIDUAL_BYTES = 4  # per parameter, of an encoder that goes on, on a simulation's disk: results.json


@dataclass(frozen=True)
class Adapter:
    """What travels; `tokens_per_s` of a step on one core."""

    name: str
    parameters: float
    tokens_per_s: float


ADAPTERS = (
    Adapter("SmolLM2-135M, rank 8", 2.442e6, 230),  # simulations/bases: 460 tokens/s on two cores
    Adapter("Qwen 0.5B, rank 8", 4.40e6, 99),  # 198
)


def rows() -> list[tuple[str, ...]]:
    """A figure a row: its name, and its value for each number of clients."""
    table: list[tuple[str, ...]] = [
        ("connections: memory", *(amount(SERVER_BYTES + CONNECTED_BYTES * n) for n in CLIENTS)),
        ("all connect: one core", *(duration(CONNECT_CPU_S * n) for n in CLIENTS)),
        ("all back after a crash", *(duration(BACK_CPU_S * n) for n in CLIENTS)),
        ("descriptors", *(f"{n:,}" for n in CLIENTS)),
        ("ledger of descriptions", *(amount(LEDGER_BYTES * n) for n in CLIENTS)),
        ("checkpoint, every round", *(amount(CHECKPOINT_BYTES * n) for n in CLIENTS)),
        ("drawing the cohort (measured now)", *(duration(draw_s(n)) for n in CLIENTS)),
    ]
    for each in ADAPTERS:
        sent = COHORT * each.parameters * (DOWN_BITS + UP_BITS) / 8
        same: list[tuple[str, str]] = [
            ("sent in a round", amount(sent)),
            ("at 1 Gbit/s", duration(8 * sent / LINK_BITS_PER_S)),
            ("decoded, checked, added", duration(COHORT * (each.parameters / CODED_PER_S + MESSAGE_CPU_S))),
            ("simulated: 100 cores", duration(COHORT * STEPS * STEP_TOKENS / each.tokens_per_s / 100)),
        ]
        table += [(f"{each.name}: {name}", *[value] * len(CLIENTS)) for name, value in same]
        residuals = (amount(n * each.parameters * RESIDUAL_BYTES) for n in CLIENTS)
        table.append((f"{each.name}: simulated, on disk once all took part", *residuals))
    return table


def draw_s(clients: int) -> float:
    """Processor time of drawing a round's clients, and who replaces them."""
    names = [f"client-{number:07}" for number in range(clients)]
    began = time.process_time()
    choose_cohort(names, COHORT, seed=0, round_number=1)
    return time.process_time() - began


def amount(size_bytes: float) -> str:
    """With its unit."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size_bytes >= size:
            return f"{size_bytes / size:.3g} {unit}"
    return f"{size_bytes / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """With its unit."""
    return f"{seconds / 60:.3g} min" if seconds >= 120 else f"{seconds:.2g} s"


if __name__ == "__main__":
    print("\n".join(f"| {' | '.join(row)} |" for row in (("", *(f"{n:,}" for n in CLIENTS)), ("---",) * 4, *rows())))

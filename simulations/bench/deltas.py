"""Numbers to measure codecs on: samples of known distributions, and deltas from real training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plait.adapters import AdapterState, Layout, subtract
from plait.rounds.local_model import TrainJob

LOCAL_STEPS = 10
"""Steps behind each trained delta."""


@dataclass(frozen=True, eq=False)
class Source:
    """Numbers to pack.

    Attributes:
        name: what they are.
        delta: the numbers.
        trained_s: seconds of the local steps that made them; None for numbers that were drawn.
    """

    name: str
    delta: AdapterState
    trained_s: float | None = None


def samples(size: int, *, seed: int) -> Iterator[Source]:
    """Independent Gaussian and Laplacian numbers, each as an adapter of one tensor."""
    chance = np.random.default_rng(seed)
    layout = Layout.of({"sample": (size,)})
    yield Source("Gaussian", AdapterState(layout, chance.standard_normal(size, np.float32)))
    yield Source("Laplacian", AdapterState(layout, chance.laplace(size=size).astype(np.float32)))


def trained(base: str, *, seed: int) -> Iterator[Source]:
    """What a client sends in the first round of a run, and another client in the second, at a learning rate of 0.001.

    Raises:
        ConfigError: there is no such base.
    """
    from plait.config import config_from_table
    from plait.run import resolve
    from plait.settle import settle
    from plait.simulation.partitioned_data import load_partitioned
    from plait.simulation.simulation import Simulation

    # On a busy machine a second thread costs the tiny base more than it gains.
    threads = 1 if base == "tiny" else 0
    given = {"base": base, "local-steps": LOCAL_STEPS, "learning-rate": 1e-3, "seed": seed, "threads": threads}
    run = resolve(settle(config_from_table(given)))
    simulation = Simulation(run, load_partitioned(run.config).partition.shares)
    before = run.ranks.master.initial
    for round_number in (1, 2):
        settings = dataclasses.replace(
            run.settled.plan.settings, round=round_number, done_steps=(round_number - 1) * LOCAL_STEPS
        )
        client = simulation.model(round_number - 1)
        done = client.train(TrainJob(client, run.ranks.master.spec, settings, received=before, start=before))
        yield Source(f"delta of {base}, round {round_number}", subtract(done.state, before), done.report.seconds)
        before = done.state

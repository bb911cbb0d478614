"""What codec and error feedback cost a simulated round, in processor time of the process on one thread.

    python simulations/wire/cost.py             # rounds of 8 clients x 4 steps of 4 x 128 tokens of SmolLM2-135M
    python simulations/wire/cost.py --whole     # the same with every client's training, minutes per wire

One client trains once; the others, and later rounds, take its delta times a number of their own, so that the rest of a
round is all real: both directions, feedback, digests, checkpoints, disk. The cost of a wire is the rest of its rounds
beyond that of float32's rounds. The first round, in which nothing is received and nothing is owed, does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import plait
from plait.adapters import AdapterState, subtract
from plait.rounds.events import RoundFinished, RoundStarted
from plait.rounds.local_model import Trained, TrainJob
from plait.simulation import simulation
from plait.wire.codecs.rate import Rate

SETTINGS = {"local_steps": 4, "batch_size": 4, "seq_len": 128, "learning_rate": 0.003, "threads": 1, "seed": 0}


def timed(spent: Counter[str], what: str, function: Callable[..., object]) -> Callable[..., object]:
    """`function`, whose processor time is added up."""

    def wrapped(*given, **named):
        started = time.process_time()
        try:
            return function(*given, **named)
        finally:
            spent[what] += time.process_time() - started

    return wrapped


class Replay:
    """Stands in for `train_jobs`: trains one job, and answers all others with its delta."""

    def __init__(self, train: Callable[[Sequence[TrainJob]], Sequence[object]]) -> None:
        self._train = train
        self._done: tuple[Trained, AdapterState] | None = None
        self.training_s = 0.0

    def __call__(self, jobs: Sequence[TrainJob]) -> list[Trained]:
        """The results of the jobs, in their order."""
        return [self._of(job) for job in jobs]

    def _of(self, job: TrainJob) -> Trained:
        if self._done is None:
            started = time.process_time()
            (trained,) = self._train([job])
            self.training_s = time.process_time() - started
            if not isinstance(trained, Trained):
                raise SystemExit(str(trained))
            self._done = trained, subtract(trained.state, job.start)
        trained, delta = self._done
        chance = np.random.default_rng([job.settings.round, *job.client.encode()])
        flat = job.start.flat + delta.flat * np.float32(chance.uniform(0.8, 1.2))
        return replace(trained, state=AdapterState(delta.layout, flat))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wires", default="1")
    parser.add_argument("--whole", action="store_true", help="let every client train in every round")
    arguments = parser.parse_args()
    spent: Counter[str] = Counter()
    replay = Replay(simulation.train_jobs)
    train = simulation.train_jobs if arguments.whole else replay
    simulation.train_jobs = timed(spent, "training", train)
    for name in ("encode", "decode"):
        setattr(Rate, name, timed(spent, name, getattr(Rate, name)))
    rest_of_exact = 0.0
    for wire in ("fp32", *arguments.wires.split(",")):
        at: Counter[str] = Counter()
        rounds: list[Counter[str]] = []

        def heard(event: object, at: Counter[str] = at, rounds: list[Counter[str]] = rounds) -> None:
            now = Counter({**spent, "round": time.process_time()})
            if isinstance(event, RoundStarted):
                at.clear()
                at.update(now)
            elif isinstance(event, RoundFinished) and event.round > 1:
                rounds.append(Counter({what: now[what] - at[what] for what in now}))

        with tempfile.TemporaryDirectory() as folder:
            plait.simulate(
                base=arguments.base, clients=arguments.clients, rounds=arguments.rounds, wire=wire,
                out=Path(folder) / "run", callbacks=[heard], quiet=True, eval_every=arguments.rounds,
                max_held_out_sequences=1, **SETTINGS,
            )  # fmt: skip
        mean = {
            what: sum(each[what] for each in rounds) / len(rounds) for what in ("round", "training", "encode", "decode")
        }
        rest = mean["round"] - mean["training"]
        training = mean["training"] if arguments.whole else arguments.clients * replay.training_s
        rest_of_exact = rest_of_exact or rest
        print(
            f"wire {wire}: training {training:.2f} s, rest {rest:.2f} s (encoding {mean['encode']:.2f}, decoding "
            f"{mean['decode']:.2f}); beyond float32 {(rest - rest_of_exact) / (training + rest):.1%} of the round",
            flush=True,
        )


if __name__ == "__main__":
    main()

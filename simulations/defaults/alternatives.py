"""Other ways to find a step: Prodigy, DoG and schedule-free AdamW beside the learning rates that clients find.

    python simulations/defaults/alternatives.py DIR --out simulations/defaults/results-alternatives.jsonl

DIR is where `corpora.py` wrote. The settings are those of `grid.py --quick --base tiny` in float32 without personalized
adapters and without steps taken back; only the local step differs. Every client keeps its optimizer's state over the
rounds, except where the method itself begins at the weights received (schedule-free averages). About 4 s per run.

Prodigy: Mishchenko and Defazio, arXiv 2306.06101, algorithm 4, with its defaults (d0 = 1e-6, learning rate 1) and with
d0 = 1e-3. DoG: Ivgi et al., arXiv 2302.12022, with its default r_eps and with 1e-2. Schedule-free AdamW: Defazio et
al., arXiv 2405.15682, at the learning rate that a client finds.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import torch
from corpora import CORPORA
from grid import COMMON, GRID, QUICK
from one_run import append, losses_of, rows_of, run_once, settings_of

from plait.simulation.loaded import Loaded
from plait.training import learner
from plait.training.learner import Learner
from plait.training.optimizer import EPSILON

Tensor = torch.Tensor


@dataclass
class State:
    """What a client's optimizer remembers.

    Attributes:
        origin: (size,) where the client began in round 1.
    """

    origin: Tensor
    steps: int = 0
    d: float = 0.0
    numerator: float = 0.0
    squares: float = 0.0
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def vector(self, name: str) -> Tensor:
        """(size,) the vector of this name; zero at first."""
        return self.vectors.setdefault(name, torch.zeros_like(self.origin))


Step = Callable[[State, Tensor, Tensor], Tensor]
"""From the state, the adapter and its gradient, all (size,), the adapter after the step."""


def prodigy(d0: float) -> Step:
    """Prodigy with AdamW's betas of 0.9 and 0.999; `beta3` is the root of the second."""

    def step(state: State, values: Tensor, gradient: Tensor) -> Tensor:
        beta1, beta2, beta3 = 0.9, 0.999, math.sqrt(0.999)
        d = state.d or d0
        mean, square, drift = state.vector("mean"), state.vector("square"), state.vector("drift")
        mean.mul_(beta1).add_(gradient, alpha=d * (1 - beta1))
        square.mul_(beta2).addcmul_(gradient, gradient, value=d * d * (1 - beta2))
        state.numerator = beta3 * state.numerator + (1 - beta3) * d * d * float(gradient @ (state.origin - values))
        drift.mul_(beta3).add_(gradient, alpha=d * d * (1 - beta3))
        after = values - d * mean / (square.sqrt() + d * EPSILON)
        state.d = max(d, state.numerator / (float(drift.abs().sum()) or 1.0))
        return after

    return step


def dog(r_eps: float) -> Step:
    """DoG: the distance from the origin over the root of the sum of squared gradients."""

    def step(state: State, values: Tensor, gradient: Tensor) -> Tensor:
        least = r_eps * (1 + float(state.origin.norm()))
        state.d = max(state.d, least, float((values - state.origin).norm()))
        state.squares += float(gradient @ gradient)
        return values - state.d / math.sqrt(state.squares + 1e-8) * gradient

    return step


def stepping(step: Step) -> Callable[[Learner, Sequence[Tensor | None], float], None]:
    """`Learner.step` that steps so, without clipping and limit."""
    states: dict[int, State] = {}

    def take(self: Learner, gradients: Sequence[Tensor | None], loss: float) -> None:
        optimizer = self._optimizer
        optimizer.take(gradients)
        state = states.setdefault(id(self._inputs.examples), State(optimizer.master.clone()))
        optimizer.master.copy_(step(state, optimizer.master, optimizer.gradient))
        self._rate = state.d
        self._losses.append(loss)

    return take


def schedule_free() -> Callable[[Learner, Sequence[Tensor | None], float], None]:
    """`Learner.step` of schedule-free AdamW: gradients at y, steps of z, and their mean x, which a round ends at.

    AdamW's steps are plait's own, with learning rate and limit, but without a first moment, whose part y has.
    """
    plain, beta = Learner.step, 0.9

    def take(self: Learner, gradients: Sequence[Tensor | None], loss: float) -> None:
        master, count = self._optimizer.master, len(self._losses) + 1
        if count == 1:
            self._x, self._z = master.clone(), master.clone()
            for group in self._optimizer._optimizer.param_groups:
                group["betas"] = (0.0, 0.999)
        at = master.clone()
        plain(self, gradients, loss)
        self._z += master - at
        self._x += (self._z - self._x) / count
        last = count == self._inputs.settings.steps_taken
        master.copy_(self._x if last else beta * self._x + (1 - beta) * self._z)

    return take


WAYS: dict[str, Callable[[], Callable[[Learner, Sequence[Tensor | None], float], None]]] = {
    "found": lambda: Learner.step,
    "schedule-free": schedule_free,
    "Prodigy": lambda: stepping(prodigy(1e-6)),
    "Prodigy, d0 1e-3": lambda: stepping(prodigy(1e-3)),
    "DoG": lambda: stepping(dog(1e-6)),
    "DoG, r_eps 1e-2": lambda: stepping(dog(1e-2)),
}


def table(rows: Iterable[dict[str, object]]) -> str:
    """Nats gained after the last round, as Markdown."""
    gains: dict[str, dict[str, str]] = {}
    for row in rows:
        losses = row["losses"]
        if isinstance(losses, list):
            gains.setdefault(str(row["way"]), {})[str(row["corpus"])] = f"{losses[0] - losses[-1]:.3f}"
    names = list(dict.fromkeys(name for found in gains.values() for name in found))
    lines = [f"| way | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    return "\n".join(
        lines + [f"| {way} | {' | '.join(found.get(name, '') for name in names)} |" for way, found in gains.items()]
    )


def main() -> None:
    """Run what is missing, and show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    done = {(row["way"], row["corpus"]) for row in rows_of(arguments.out)}
    loaded = Loaded()
    for way, make in WAYS.items():
        for corpus in (name for name, about in CORPORA.items() if about.half == "choosing"):
            if (way, corpus) in done:
                continue
            settings = {**settings_of(corpus, arguments.directory, held_out=8), **COMMON, **GRID, **QUICK}
            settings |= {"base": "tiny", "wire": "fp32", "seed": 0}
            with mock.patch.object(learner.Learner, "step", make()):
                view = run_once(settings, loaded)
            append(arguments.out, {"way": way, "corpus": corpus, "losses": losses_of(view)})
    print(table(rows_of(arguments.out)))


if __name__ == "__main__":
    main()

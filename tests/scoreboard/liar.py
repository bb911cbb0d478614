"""One of eight clients that lies: what a run publishes meanwhile.

Mallory sends its own change times a negative number, says what suits it of its held-out losses, and spoils evaluations.
In each case no adapter that the run publishes, in any round, may be worse than the base by the other seven's losses;
where rounds stay unspoiled, one that is better must be published.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, Federation, no_waiting_for_the_disk

from plait.adapters import AdapterState
from plait.ledger.watch import Watch
from plait.rounds.buffer import Buffer, with_buffer
from plait.rounds.evaluation import SequenceLosses
from plait.rounds.paces import ClientSpeeds
from plait.rounds.validate import NormBound, NormPolicy

MALLORY, ROUNDS = "mallory", 4
HONEST = {f"client-{place}": FakeModel(3.0 + place / 10, 5) for place in range(7)}


@dataclass(frozen=True)
class Liar(FakeModel):
    """Trains like the others and sends its change times `factor` in some rounds; `says` is its loss, if it lies."""

    factor: float = -9.0
    rounds: tuple[int, ...] = tuple(range(1, ROUNDS + 1))
    says: Mapping[int, float] = field(default_factory=dict)

    def train(self, job: object) -> object:
        trained = super().train(job)
        if job.settings.round not in self.rounds or job.settings.secure_aggregation:
            return trained
        flat = job.start.flat + np.float32(self.factor) * (trained.state.flat - job.start.flat)
        return replace(trained, state=AdapterState(job.start.layout, flat))

    def evaluate(self, spec: object, state: AdapterState, settings: object) -> SequenceLosses:
        told = super().evaluate(spec, state, settings)
        loss = self.says.get(settings.round)
        return told if loss is None else replace(told, losses=tuple(loss * count for count in told.counts))


@dataclass(frozen=True)
class Case:
    """A lie, and what is not the default of its run's plan."""

    liar: Liar
    plan: Mapping[str, object] = field(default_factory=dict)
    spoils: tuple[int, ...] = ()  # rounds in whose masked evaluation mallory sends figures that are none
    learns: bool = False  # the run must publish something better than its base all the same


def liar(**lies: object) -> Liar:
    return Liar(3.5, 5, **lies)


LOW = dict.fromkeys(range(1, ROUNDS + 1), 0.0)
MASKED = {"masked": True}
# The bound on norms would take the worst of them out.
UNBOUND = {"norm_bound": NormBound(NormPolicy.OFF)}
BUFFERED = {"folds": 8, "speeds": ClientSpeeds.of, "exchange": lambda way: with_buffer(way, Buffer(8, 9, 8))}
CASES = {
    "always": Case(liar()),
    "half of the gain": Case(liar(factor=-4.0), learns=True),
    "from round 3 on": Case(liar(rounds=(3, 4)), learns=True),
    "in the last round": Case(liar(rounds=(ROUNDS,)), learns=True),
    "with a loss of nothing": Case(liar(says=LOW)),
    "with a loss of nothing over a million tokens": Case(liar(says=LOW, held_out_tokens=10**6)),
    "with a base that it says was bad": Case(liar(says={0: 1e6})),
    "between evaluations": Case(liar(factor=-40.0, rounds=(2, 4)), {"eval_every": 2}),
    "at one bit": Case(liar(), {"bits": "1"}),
    "where a step is taken back as a whole": Case(liar(), {"rule": "fedsvd"}),
    "in asynchronous rounds": Case(liar(), BUFFERED),
    "in the last asynchronous round": Case(liar(rounds=(ROUNDS,)), BUFFERED, learns=True),
    "keeping the best": Case(liar(rounds=(3, 4)), {"watch": Watch("best", take_back=True)}, learns=True),
    "under masks": Case(liar(factor=-10.0), MASKED),
    "under masks from round 3 on": Case(liar(factor=-10.0, rounds=(3, 4)), MASKED, learns=True),
    "under masks, the base not evaluated": Case(liar(factor=-10.0), MASKED, spoils=(0,)),
    "under masks, nothing evaluated": Case(liar(factor=-10.0), MASKED, spoils=tuple(range(ROUNDS + 1))),
}


def run(*, full: bool, scratch: Path) -> Row:
    del full
    with no_waiting_for_the_disk():
        found = {name: _complaint(case, scratch / name.replace(" ", "-")) for name, case in CASES.items()}
        return Row.of("one of eight lies", found, least=len(CASES))


def _complaint(case: Case, path: Path) -> str:
    federation = begin(case, path)
    federation.run()
    losses = [_loss(state.shadow) for state in federation.published]
    base = _loss(federation.initial)
    if not losses:
        return "nothing was published"
    if max(losses) > base + 1e-9:
        return f"an adapter of loss {max(losses):.2f} was published, the base has {base:.2f}"
    if case.learns and losses[-1] >= base:
        return "nothing better than the base was published"
    refused = {event["round"] for event in federation.of_kind("not_published")}
    return "" if refused or case.liar.factor == liar(factor=-4.0).factor or case.spoils else "no refusal is recorded"


def begin(case: Case, path: Path) -> Federation:
    """The run of a case, not begun."""
    models = {**HONEST, MALLORY: case.liar}
    watch = Watch("accepted", take_back=not {"masked", "exchange"} & {*case.plan})
    federation = Federation(path, models, **{"bits": "fp32", "rounds": ROUNDS, "watch": watch, **UNBOUND, **case.plan})
    if federation.masked:
        (node,) = (node for node, name in federation.channel.names.items() if name == MALLORY)
        saying = federation.channel.participants[node].way.sender
        saying.masked = partial(_lying, saying.masked, case)
    return federation


def _lying(
    masked: Callable[..., object], case: Case, session: object, numbers: object, figures: object, *, received: object
) -> object:
    """Masks, under which a client hides its change times a factor, and figures of losses that none has."""
    if session.purpose == "train" and session.round in case.liar.rounds:
        numbers = numbers * int(case.liar.factor)
    if session.purpose == "evaluate" and session.round in case.spoils:
        figures = figures + np.uint64(1 << 40)
    return masked(session, numbers, figures, received=received)


def _loss(adapter: AdapterState) -> float:
    return float(np.mean([np.mean((adapter.flat - model.target) ** 2) for model in HONEST.values()]))

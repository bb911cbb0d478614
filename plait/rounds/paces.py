"""How fast clients are, as the rounds before have measured it, and how many steps each takes if that decides.

A client's pace is the steps per second of its training, and the seconds of everything else between task and answer. It
follows from the ledger alone, of finished rounds only, so that a resumed run assigns the same steps.

With steps by speed a round lasts T seconds in which a client of pace (v, c) takes v (T - c) steps; T is such that the
clients take `local_steps` on average, none fewer than 1 and none more than `MOST_TIMES` times the average. FedCompass
(Li et al., arXiv 2309.14675) assigns steps from measured speed in the same way. A client whose pace is not known yet
takes a quarter of the average but two at least, so that the first round, which measures all, is short, and two steps of
four sequences are as many as a client's policy asks for. The updates are then normalised (`factors`), so that a
client's pull does not grow with its steps.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from plait.ledger import events
from plait.settings.pace import MOST_TIMES


@dataclass(frozen=True)
class Pace:
    """How fast a client is."""

    steps_per_s: float
    rest_s: float

    def steps_in(self, round_s: float) -> float:
        """Steps that it takes in a round of this many seconds."""
        return self.steps_per_s * max(0.0, round_s - self.rest_s)


@dataclass
class ClientSpeeds:
    """The clients' paces, from the events of a run."""

    local_steps: int = 0  # of a client without a number of its own
    known: dict[str, Pace] = field(default_factory=dict[str, Pace])
    _steps: dict[str, int] = field(default_factory=dict[str, int])
    _new: dict[str, Pace] = field(default_factory=dict[str, Pace])

    @classmethod
    def of(cls, recorded: Iterable[events.Event], local_steps: int = 0) -> Self:
        """Those that a ledger records."""
        paces = cls(local_steps)
        for event in recorded:
            paces.take(event)
        return paces

    def take(self, event: events.Event) -> None:
        """Process the next event."""
        match event:
            case events.Resumed():
                self._new = {}
            case events.RoundStarted() | events.ClientReplaced():
                self._steps |= {client: number for (_, client), number in event.asked.items()}
            case events.RoundFinished():
                self.known |= self._new
                self._new, self._steps = {}, {}
            case _:
                if event.pace:
                    self._note(*event.pace)

    def expected_s(self, client: str, steps: int = 0) -> float | None:
        """How long a task of this many steps should take, 0 for `local_steps`; None if unknown."""
        pace = self.known.get(client)
        return pace and pace.rest_s + (steps or self.local_steps) / pace.steps_per_s

    def _note(self, client: str, train_s: float, took_s: float) -> None:
        steps = self._steps.get(client, self.local_steps)
        if steps and train_s > 0:
            self._new[client] = Pace(steps / train_s, max(0.0, took_s - train_s))


_HALVINGS = 60
_FEWEST_FIRST = 2


@dataclass(frozen=True)
class BySpeed:
    """Gives each client a number of steps of its own (`RunPlan.stepping`)."""

    def steps(self, local_steps: int, cohort: Sequence[str], paces: Mapping[str, Pace]) -> Callable[[str], int]:
        """From a client of a round, or one that replaces another, to its steps."""
        known = {client: paces[client] for client in sorted(cohort) if client in paces}
        if not known:
            return lambda _: _first(local_steps)
        total, most = local_steps * len(known), MOST_TIMES * local_steps
        low, high = 0.0, max(pace.rest_s + most / pace.steps_per_s for pace in known.values())
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if math.fsum(_bounded(pace.steps_in(middle), local_steps) for pace in known.values()) < total:
                low = middle
            else:
                high = middle
        wanted = {client: _bounded(pace.steps_in(high), local_steps) for client, pace in known.items()}
        steps = {client: int(number) for client, number in wanted.items()}
        # What rounding down left goes to those that lost most by it, the first by name among equals.
        left = max(0, total - sum(steps.values()))
        for client in sorted(wanted, key=lambda name: (steps[name] - wanted[name], name))[:left]:
            steps[client] = min(steps[client] + 1, most)

        def steps_of(client: str) -> int:
            if client in steps:
                return steps[client]
            pace = None if client in cohort else paces.get(client)
            return round(_bounded(pace.steps_in(high), local_steps)) if pace else _first(local_steps)

        return steps_of

    def factors(self, steps: Mapping[str, int], weights: Mapping[str, float]) -> Mapping[str, float]:
        """What multiplies each client's delta: r / sqrt(tau_i), r = sum p_i sqrt(tau_i), so that all pull equally hard.

        FedNova (Wang et al., arXiv 2007.07481, section 4) divides a delta by what its local solver accumulates, tau_i
        with SGD. AdamW's steps are bounded and turn from batch to batch, so that tau_i of them lead about sqrt(tau_i)
        as far as one. Divided by tau_i, deltas of one step are two to three times as long as those of ten, and clients
        that are slow lead (simulations/LOG.md).
        """
        total = math.fsum(weights.get(client, 1.0) for client in steps)
        mean = math.fsum(weights.get(client, 1.0) * math.sqrt(number) for client, number in steps.items()) / total
        return {client: mean / math.sqrt(number) for client, number in steps.items()}


def _first(local_steps: int) -> int:
    return min(local_steps, max(_FEWEST_FIRST, math.ceil(local_steps / MOST_TIMES)))


def _bounded(steps: float, local_steps: int) -> float:
    return min(max(steps, 1.0), float(MOST_TIMES * local_steps))

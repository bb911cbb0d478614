"""Rounds that wait for their cohort: the core's way to gather updates.

A round ends when enough updates are in, or at its deadline. Clients that fail are replaced while there is time; with
fewer updates than the quorum the round is tried again with those it has. Its updates are folded once all are in, so
the result does not depend on who answered first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeAlias

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.arrivals import Arrivals
from plait.rounds.channel import NoAnswer, Purpose
from plait.rounds.collector import ServerSide
from plait.rounds.dispatch import Answer, doubt
from plait.rounds.evaluating import evaluate
from plait.rounds.reason import Reason
from plait.rounds.run_state import RunState, choose_cohort, note_held
from plait.rounds.spool import Stored
from plait.wire.messages import UpdateReply

_Settle: TypeAlias = Callable[[], "tuple[bytes, Stored | None]"]
"""Says what the client holds now, and what is stored of its update."""


@dataclass(eq=False)
class CohortCollector:
    """Gathers the updates of one cohort after the other."""

    server: ServerSide

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Each round withdraws its own tasks."""

    def evaluate(self, state: RunState) -> tuple[RunState, events.Evaluated | None]:
        """Ask clients for their losses, and wait for the answers."""
        return evaluate(self.server, state)

    def next(self, state: RunState) -> RunState:
        """The state after the next round.

        Raises:
            CannotPayError: the run ends with the adapter that it has.
            PeerError: fewer usable updates than the quorum.
        """
        server, started, number = self.server, time.perf_counter(), state.round + 1
        stored = self._recovered(state, number)
        check = server.spool.check_norms(state, stored)
        if server.aggregator.fold.is_settled(state, number, check.accepted):
            return self._close(state, stored, started)
        attempts = server.plan.attempts if server.waits or server.channel.clock.is_virtual else 1
        for attempt in range(1, attempts + 1):
            if server.waits:
                server.gather()
            state = self._collect(state, number, stored, without=check.refused if attempt > 1 else ())
            check = server.spool.check_norms(state, stored)
            if len(check.accepted) >= server.plan.quorum:
                return self._close(state, stored, started)
            server.ledger.append(events.RoundMissed(round=number, attempt=attempt, received=len(check.accepted)))
        raise PeerError(
            f"round {number} got {len(check.accepted)} usable updates from its {server.plan.cohort_size} clients, "
            f"expected at least {server.plan.quorum}{server.log.last}"
        )

    def _recovered(self, state: RunState, number: int) -> dict[str, Stored]:
        """The updates of a round that an earlier part of the run has stored, by client."""
        server, stored = self.server, dict[str, Stored]()
        if server.channel.clock.is_virtual:
            # A round that was interrupted is run again from its start, to the same updates and times.
            return stored
        for client in sorted({*server.recorded.clients, *server.roster.nodes}):
            is_recorded = (number, client) in server.recorded.received
            if found := server.intake.recover(state, number, client, is_recorded=is_recorded):
                stored[client] = found
        return stored

    def _close(self, state: RunState, stored: dict[str, Stored], started: float) -> RunState:
        wanted = self.server.plan.cohort_size
        if not self.server.waits:
            # No other client can come.
            wanted = min(wanted, len({*self.server.roster.nodes, *stored}))
        return self.server.close(state, stored, wanted=wanted, started=started)

    def _collect(
        self, state: RunState, number: int, stored: dict[str, Stored], *, without: Collection[str]
    ) -> RunState:
        """Ask the cohort, and replacements for clients that fail; `stored` gets what is stored of each update.

        The clients in `without` gave an update that does not count.
        """
        server = self.server
        plan, roster, log = server.plan, server.roster, server.log
        usable = set(stored) - set(without)
        here = self._available()
        deadline = server.tasks.deadline()
        chosen, reserve = choose_cohort(
            [*(client for client in here if client not in without), *(usable - set(here))],
            plan.cohort_size,
            over_selection=plan.over_selection,
            seed=plan.seed,
            round_number=number,
        )
        steps_of = self._budget(number, chosen)
        steps = steps_of and {client: steps_of(client) for client in chosen}
        log.tell(events.RoundStarted(round=number, cohort=chosen, steps=steps))
        replacements = (name for name in reserve if name in here and name not in stored)
        held: dict[str, bytes] = {}
        opening = partial(self._opening, state, number)
        with (
            server.tasks.dispatch(state, roster, Purpose.TRAIN, number) as dispatch,
            Arrivals(dispatch, opening, each_bytes=server.spool.ranks.opened_bytes) as came,
        ):
            for name in chosen:
                if name not in usable:
                    dispatch.ask(name, expected_s=log.expected_s(name, steps_of(name) if steps_of else 0))
            while (found := came.next(deadline, wanted=plan.cohort_size - len(usable))) is not None:
                answer, settle = found
                client = answer.client
                if settle is not None:
                    held[client], taken = settle()
                    if taken is not None:
                        usable.add(client)
                        stored[client] = taken
                else:
                    log.failure(number, answer)
                if client in usable:
                    continue
                doubt(roster, answer)
                coming = len(usable) + len(dispatch.waiting) + len(came)
                if coming < plan.cohort_size and (name := next(replacements, None)):
                    own = steps_of(name) if steps_of else None
                    log.tell(events.ClientReplaced(round=number, client=client, by=name, steps=own))
                    dispatch.ask(name, expected_s=log.expected_s(name, own or 0))
            late = sorted(dispatch.waiting) if len(usable) < plan.cohort_size else []
        log.note_ended(number, roster)
        for client in late:
            log.failure(number, Answer(client, NoAnswer("no update before the deadline"), 0), reason=Reason.LATE)
        return note_held(state, held)

    def _available(self) -> list[str]:
        server = self.server
        nodes = server.roster.nodes
        available = frozenset(server.channel.clock.available([*nodes.values()], server.plan.quorum))
        return [client for client, node in nodes.items() if node in available]

    def _opening(self, state: RunState, number: int, answer: Answer) -> Callable[[], _Settle] | None:
        """What checks an update on any thread; what this gives stores it, in the order of arrival."""
        if not isinstance(answer.reply, UpdateReply):
            return None
        intake, client, update = self.server.intake, answer.client, answer.reply.update
        expected = intake.expected(state, number, client, self.server.roster)
        track = self.server.roster.tracks[client]

        def work() -> _Settle:
            checked = intake.open(state, expected, track, update)
            return lambda: (state.held_on(track), intake.settle(expected, update, answer, checked))

        return work

    def _budget(self, number: int, cohort: Collection[str]) -> Callable[[str], int] | None:
        """The steps of a client in a round; those that it has been asked for stay. None if all take as many."""
        plan, steps = self.server.plan, self.server.intake.steps
        if not plan.stepping:
            return None
        for asked in [asked for asked in steps if asked[0] != number]:
            del steps[asked]
        paces = self.server.log.paces
        steps_of = plan.stepping.steps(plan.settings.local_steps, sorted(cohort), paces.known if paces else {})
        return lambda client: steps.setdefault((number, client), steps_of(client))

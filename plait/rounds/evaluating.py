"""One evaluation of an adapter: clients are asked for their held-out losses, and the answers become one event.

Knows nothing of what follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from plait.errors import PeerError
from plait.rounds import events
from plait.rounds.answer_log import AnswerLog
from plait.rounds.channel import Purpose
from plait.rounds.collector import ServerSide
from plait.rounds.dispatch import Answer, Dispatch, doubt
from plait.rounds.evaluation import ClientLoss, client_losses, mean_loss
from plait.rounds.patience import Patience
from plait.rounds.roster import Roster
from plait.rounds.run_state import RunState, note_held
from plait.rounds.validate import UpdateRefused, check_evaluation
from plait.wire.messages import Evaluation


@dataclass(eq=False)
class Evaluating:
    """An evaluation in progress. Entering it asks the clients; leaving it withdraws what is unanswered.

    Attributes:
        held: what each holds once it has answered.
    """

    state: RunState
    roster: Roster
    dispatch: Dispatch
    log: AnswerLog
    clients: Sequence[str]
    _losses: dict[str, ClientLoss] = field(default_factory=dict[str, ClientLoss])
    _own: dict[str, ClientLoss] = field(default_factory=dict[str, ClientLoss])

    def __post_init__(self) -> None:
        # A client that leaves meanwhile may yet answer.
        self._cards = {client: self.roster.cards[client] for client in self.clients}
        self.held = {client: self.state.held_on(self.roster.tracks[client]) for client in self.clients}

    def __enter__(self) -> Self:
        self.dispatch.__enter__()
        for client in self.clients:
            self.dispatch.ask(client)
        return self

    def __exit__(self, *error: object) -> None:
        self.dispatch.__exit__(*error)

    def take(self, answer: Answer) -> bool:
        """Take a client's answer; whether it counts."""
        client, reply, number = answer.client, answer.reply, self.state.round
        if not isinstance(reply, Evaluation):
            self.log.failure(number, answer)
            if answer.given_up:
                doubt(self.roster, answer)
            return False
        try:
            check_evaluation(reply, self._cards[client], number)
        except UpdateRefused as refused:
            self.log.refusal(number, answer, refused.reason, str(refused))
            return False
        self.log.ledger.note(
            events.ReplyReceived(
                round=number, client=client, purpose=Purpose.EVALUATE.value, uplink_bytes=answer.uplink_bytes
            )
        )
        self._losses[client], own_loss = client_losses(reply)
        if own_loss is not None:
            self._own[client] = own_loss
        return True

    def result(self, *, virtual_s: float | None) -> events.Evaluated | None:
        """What the ledger says of it; None without answers."""
        if not self._losses:
            return None
        return events.Evaluated(
            round=self.state.round,
            adapter=self.state.shadow.digest().hex(),
            **dict(mean_loss(self._losses)),
            own=mean_loss(self._own) if self._own else None,
            virtual_s=virtual_s,
        )


def asked_to_evaluate(server: ServerSide, state: RunState, *, patience: Patience | None = None) -> Evaluating:
    """An evaluation of a state's adapter, by the clients that evaluate.

    Args:
        patience: with the clients, if it is another than with all tasks.
    """
    roster, plan = server.roster, server.plan
    dispatch = server.tasks.dispatch(state, roster, Purpose.EVALUATE, state.round, patience=patience)
    clients = plan.evaluators(list(roster.nodes))
    return Evaluating(state, roster, dispatch, server.log, clients)


def evaluate(server: ServerSide, state: RunState) -> tuple[RunState, events.Evaluated | None]:
    """Ask clients for their losses, and wait for the answers.

    Returns:
        (the state, with what clients are known to hold; the event, or None where no client could but others may come).

    Raises:
        PeerError: no client could evaluate, and no others can come.
    """
    if server.waits:
        server.gather()
    deadline, held = server.tasks.deadline(), dict[str, bytes]()
    with asked_to_evaluate(server, state) as evaluating:
        while answer := evaluating.dispatch.next_answer(deadline):
            if evaluating.take(answer):
                held[answer.client] = evaluating.held[answer.client]
    server.log.note_ended(state.round, server.roster)
    evaluated = evaluating.result(virtual_s=server.virtual_s)
    if evaluated is None and not server.waits:
        raise PeerError(f"no client could evaluate round {state.round}")
    return note_held(state, held), evaluated

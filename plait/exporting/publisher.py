"""The newest adapter as a PEFT directory, with figures from the ledger on its card."""

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

from plait.adapters import BaseReference, Parent, model_card, save_peft_directory
from plait.adapters.peft import escaped
from plait.ledger.events import Evaluated, PublishFailed
from plait.ledger.ledger import Follower, Ledger, read_events
from plait.ledger.run_now import RunNow
from plait.ledger.run_view import RunView
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RankedAdapter, RunState
from plait.training.peft_adapter import servable

if TYPE_CHECKING:
    from plait.exporting.outlets import Outlets


@dataclass(eq=False)
class Publisher:
    """Writes ``RUN/adapter`` after every round, and publishes it from there; failures are recorded."""

    directory: RunDirectory
    ledger: Ledger
    adapter: RankedAdapter
    base: BaseReference
    _: KW_ONLY
    clients: int
    outlets: "Outlets | None"
    parents: tuple[Parent, ...] = ()

    def __post_init__(self) -> None:
        self._follower, self._now = Follower(self.directory.ledger), RunNow()
        self._handed_out: tuple[int, bytes] | None = None

    def publish(self, state: RunState) -> None:
        """Replace the published adapter atomically."""
        self._write(state)
        # The last round is published once more at the end of the run.
        mark = (state.round, state.shadow.digest())
        if self.outlets is None or mark == self._handed_out:
            return
        failures = self.outlets.publish(self.directory.adapter, round_number=state.round)
        for failure in failures:
            self.ledger.append(PublishFailed(round=state.round, detail=failure))
        self._handed_out = None if failures else mark

    def _write(self, state: RunState) -> None:
        now = self._now
        for event in self._follower.new_events():
            now.take(event)
        before, after = now.base_evaluation, self._evaluation_of(state.round)
        known = (before.metrics or {}) if before else {}
        metrics = [
            (escaped(name), f"{value:.4f}" if name not in known else f"{known[name]:.4f} before, {value:.4f} after")
            for name, value in ((after.metrics or {}) if after else {}).items()
        ]
        if (judged := now.judged) and judged.round == state.round:
            moved = "" if judged.change is None else f" ({judged.change:+.4f} against the base)"
            metrics.insert(0, ("Final loss, on data that no decision looked at", f"{judged.loss:.4f}{moved}"))
        spec, adapter = servable(self.adapter.spec, state.shadow)
        card = model_card(
            name=self.directory.path.name,
            spec=spec,
            base=self.base,
            facts={
                "rounds": state.round,
                "clients": self.clients,
                "base_held_out_loss": before and before.loss,
                "final_held_out_loss": after and after.loss,
            },
            parents=self.parents,
            sections=[*((card.title, card.facts) for card in now.cards.values()), ("Held-out data", metrics)],
        )
        save_peft_directory(
            self.directory.adapter, spec=spec, state=adapter, base=self.base, card=card, parents=self.parents
        )

    def _evaluation_of(self, number: int) -> Evaluated | None:
        """That after a round; None if it was not evaluated yet."""
        newest = self._now.newest_evaluation
        if newest is None or newest.round <= number:
            return newest if newest and newest.round == number else None
        # An earlier adapter is published again, because a later one was worse.
        return RunView.of(read_events(self.directory.ledger)).evaluations.get(number)

"""The newest adapter as a PEFT directory, with figures from the ledger on its card."""

from __future__ import annotations

from plait.adapters import BaseReference, Parent, model_card, save_peft_directory
from plait.export import Outlets
from plait.rounds.events import PublishFailed
from plait.rounds.ledger import Ledger
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_progress import LiveProgress
from plait.rounds.run_state import RunState
from plait.rounds.tracks import RankedAdapter
from plait.training.published import published


class Publisher:
    """Writes ``RUN/adapter`` after every round, and publishes it from there.

    Args:
        directory: of the run.
        ledger: records rounds that could not be published; that costs no round.
        adapter: the master's.
        base: of the adapter.
        clients: in the federation, for the card.
        outlets: publish rounds elsewhere, or None.
        parents: the adapters that the run started from.
    """

    def __init__(
        self,
        directory: RunDirectory,
        ledger: Ledger,
        adapter: RankedAdapter,
        base: BaseReference,
        *,
        clients: int,
        outlets: Outlets | None,
        parents: tuple[Parent, ...] = (),
    ) -> None:
        self._directory = directory
        self._ledger = ledger
        self._adapter = adapter
        self._base = base
        self._clients = clients
        self._outlets = outlets
        self._parents = parents
        self._progress = LiveProgress(directory.ledger)
        self._handed_out: tuple[int, bytes, bytes] | None = None

    def publish(self, state: RunState) -> None:
        """Replace the published adapter atomically."""
        self._write(state)
        # The last round is published once more at the end of the run.
        mark = (state.round, state.shadow.digest(), state.base.moved.digest)
        if self._outlets is None or mark == self._handed_out:
            return
        failures = self._outlets.publish(self._directory.adapter, round_number=state.round)
        for failure in failures:
            self._ledger.append(PublishFailed(round=state.round, detail=failure))
        self._handed_out = None if failures else mark

    def _write(self, state: RunState) -> None:
        progress = self._progress()
        evaluated, loss = progress.loss or (0, None)
        spec, adapter = published(self._adapter.spec, state.shadow, self._adapter.geometry, state.base.moved)
        card = model_card(
            name=self._directory.path.name,
            spec=spec,
            base=self._base,
            rounds=state.round,
            clients=self._clients,
            base_loss=progress.base_loss,
            final_loss=loss if evaluated == state.round else None,
            parents=self._parents,
        )
        save_peft_directory(
            self._directory.adapter, spec=spec, state=adapter, base=self._base, card=card, parents=self._parents
        )

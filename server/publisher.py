"""The newest adapter as a PEFT directory, with what the ledger knows of it on the card.

Where a run moves the base, the move is folded into an adapter of a higher rank: on the base as everybody has it, that
adapter is the whole model, and plain PEFT loads it.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, BaseReference, Layout, model_card, save_peft_directory
from plait.aggregation import BaseDelta, Geometry
from plait.export import Outlets
from plait.rounds.ledger import Ledger, read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.rounds.tracks import RankedAdapter
from plait.training.prompts import servable


class Publisher:
    """Writes ``RUN/adapter`` after every round, and hands it out from there.

    Args:
        directory: of the run.
        ledger: is told where a round could not be handed out; that costs no round.
        adapter: the master's.
        base: that it belongs to.
        clients: in the federation, for the card.
        outlets: where rounds go to, or None.
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
    ) -> None:
        self._directory = directory
        self._ledger = ledger
        self._adapter = adapter
        self._base = base
        self._clients = clients
        self._outlets = outlets
        self._handed_out: tuple[int, bytes, bytes] | None = None

    def publish(self, state: RunState) -> None:
        """Replace what was published before, at once."""
        self._write(state)
        # The last round is published once more at the end of the run.
        mark = (state.round, state.shadow.digest(), state.base.moved.digest)
        if self._outlets is None or mark == self._handed_out:
            return
        failures = self._outlets.publish(self._directory.adapter, round_number=state.round)
        for failure in failures:
            self._ledger.append("publish_failed", round=state.round, detail=failure)
        self._handed_out = None if failures else mark

    def _write(self, state: RunState) -> None:
        losses = {
            cast("int", event["round"]): cast("float", event["loss"])
            for event in read_events(self._directory.ledger)
            if event["event"] == "evaluated"
        }
        spec, adapter = servable(self._adapter.spec, state.shadow)
        if state.base.moved.digest:
            spec, adapter = with_base(spec, adapter, self._adapter.geometry, state.base.moved.delta)
        card = model_card(
            name=self._directory.path.name,
            spec=spec,
            base=self._base,
            rounds=state.round,
            clients=self._clients,
            base_loss=losses.get(0),
            final_loss=losses.get(state.round),
        )
        save_peft_directory(self._directory.adapter, spec=spec, state=adapter, base=self._base, card=card)


def with_base(
    spec: AdapterSpec, state: AdapterState, geometry: Geometry, moved: BaseDelta
) -> tuple[AdapterSpec, AdapterState]:
    """An adapter of one higher rank that is adapter and change of the base together.

    With n columns of the base's change b a, and scale s: s [B, b/s, 0] [A; a; 0] = s B A + b a. All modules get the
    same rank, which is what servers of many adapters ask for; what a module does not need is zero.
    """
    columns = max(factors.columns for factors in moved.factors.values())
    rank = max(pair.rank for pair in geometry.pairs) + columns
    shapes = {slot.name: slot.shape for slot in geometry.others}
    tensors = {slot.name: state[slot.name] for slot in geometry.others}
    for pair in geometry.pairs:
        b, a = np.zeros((pair.d_out, rank), np.float32), np.zeros((rank, pair.d_in), np.float32)
        b[:, : pair.rank], a[: pair.rank] = pair.b_of(state.flat), pair.a_of(state.flat)
        if pair.module in moved.factors:
            factors = moved.factors[pair.module]
            until = pair.rank + factors.columns
            b[:, pair.rank : until], a[pair.rank : until] = factors.b / pair.scale, factors.a
        for name, values in ((pair.b.name, b), (pair.a.name, a)):
            shapes[name], tensors[name] = values.shape, values
    layout = Layout.of(shapes)
    scale = geometry.pairs[0].scale
    wider = AdapterSpec(
        method=spec.method,
        peft_config={**spec.peft_config, "r": rank, "lora_alpha": scale * rank, "use_rslora": False},
        task=spec.task,
        labels=spec.labels,
        layout=layout,
        init_seed=spec.init_seed,
    )
    return wider, AdapterState.from_tensors(layout, tensors)

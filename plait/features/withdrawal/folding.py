"""The approximate way: every round of a run folded again from its kept updates, without one client's.

What the others trained after a round began with an adapter that had the client's part in it, and that stays in their
updates. So the result is not that of a run without the client; `residual` measures what attacks still see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from plait.adapters import AdapterState, add, model_card, save_peft_directory
from plait.adapters.peft import load_peft_directory
from plait.api.recomputing import recomputed
from plait.errors import ConfigError, PeerError
from plait.rounds.audit import Recomputing
from plait.rounds.broadcasts import parents_in
from plait.rounds.fold import Aggregator, TakesBack
from plait.rounds.ledger import read_events
from plait.rounds.recorded import kept_in
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_state import RunState
from plait.rounds.run_view import RunView
from plait.rounds.spool import Refused, Stored
from plait.rounds.watch import Standing
from plait.run import Run
from plait.training.prompts import servable
from plait.traits import Trait


def check(run: Run, directory: RunDirectory) -> None:
    """Refuse a run whose rounds cannot be folded again without a client.

    Raises:
        ConfigError: with the reason.
    """
    why = ""
    if not run.config.keep_updates:
        why = "its updates were not kept (--keep-updates)"
    elif Trait.SINGLE_UPDATES in run.config.gone:
        why = "only its clients have seen single updates"
    elif run.rule.new_factors(one_rank=len(run.ranks.adapters) == 1):
        why = f"{run.rule.name} makes other factors in every round, and later updates fit no others"
    elif gone := RunView.after(read_events(directory.ledger)).erased:
        why = f"updates of '{gone[0]}' were erased"
    if why:
        raise ConfigError(f"'{directory.path}' cannot be folded again: {why}; leave --approximate out")


def fold_without(run: Run, directory: RunDirectory, client: str, out: Path) -> str:
    """Fold every round again without a client, and write the adapter that this gives.

    Args:
        out: directory; gets ``adapter``.

    Returns:
        Digest of the adapter.

    Raises:
        ConfigError: the run cannot be folded again.
        PeerError: an update is missing, or the kept ones do not give the recorded adapters.
        MachineError: the adapter cannot be written.
    """
    check(run, directory)
    events = read_events(directory.ledger)
    made: list[_Without] = []

    def watching(state: RunState, make: Callable[[Refused], Aggregator]) -> _Without:
        made.append(_Without(client, state, make(lambda _number, _client, _reason, _detail: None)))
        return made[0]

    recomputed(directory, events, run, watching=watching)
    master = run.ranks.master
    kept = kept_in(RunView.of(events), best=run.config.keep == "best")
    rounds = kept.round if kept else 0
    spec, adapter = servable(master.spec, made[0].after[rounds])
    out.mkdir(parents=True, exist_ok=True)
    base, parents = run.base.reference, parents_in(events)
    card = model_card(
        name=out.name,
        spec=spec,
        base=base,
        rounds=rounds,
        clients=run.config.clients - 1,
        parents=parents,
        told=[("Withdrawal", [("A client withdrew", "its updates were taken out of the kept ones, approximately")])],
    )
    save_peft_directory(out / "adapter", spec=spec, state=adapter, base=base, card=card, parents=parents)
    return load_peft_directory(out / "adapter").digest


class _Without(Recomputing):
    """The adapter as it would be had the others' updates alone been folded."""

    def __init__(self, client: str, state: RunState, aggregator: Aggregator) -> None:
        self._client, self._aggregator = client, aggregator
        self._adapter, self._accepted = state.adapter, state.accepted or state.adapter
        self._rule_memory, self._optimizer_memory = state.rule_memory, state.optimizer_memory
        self.after = {state.round: state.adapter}

    def steps(self, state: RunState, number: int, stored: Mapping[str, Stored], standing: Standing) -> None:
        """Fold the others' updates as this round did all."""
        others = {name: each for name, each in stored.items() if name != self._client}
        if others:
            alone = replace(state, rule_memory=self._rule_memory, optimizer_memory=self._optimizer_memory)
            try:
                step, folded, memory = self._aggregator.combined(alone, number, others, standing=standing)
            except PeerError:  # none of the others' counts
                pass
            else:
                self._adapter = add(self._adapter, step)
                self._rule_memory, self._optimizer_memory = folded.outcome.memory, memory
        self.after[number] = self._adapter

    def accepted(self) -> None:
        """Keep what steps are taken back towards."""
        self._accepted = self._adapter

    def taken_back(self, how_far: TakesBack, *, ends: bool) -> None:
        """Take back as far as the run did."""
        wanted = self._accepted
        if how_far is TakesBack.HALF and not ends:
            wanted = AdapterState(wanted.layout, (wanted.flat + self._adapter.flat) * np.float32(0.5))
        self._adapter = wanted
        self.after[max(self.after)] = wanted

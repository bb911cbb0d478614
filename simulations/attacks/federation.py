"""One federation in this process: plait's coordinator and participants, over a LocalChannel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from attacks.model import FINGERPRINT, Client, spec_and_initial

from plait.aggregation import geometry_of, optimizer_for
from plait.flower import ALL_RULES
from plait.ledger.events import Adapter, Base, RunStarted
from plait.ledger.ledger import Ledger, read_lines
from plait.rounds.channel import LocalChannel
from plait.rounds.coordinator import Coordinator
from plait.rounds.fold import Aggregator, PlainFold
from plait.rounds.participant import Participant
from plait.rounds.run_directory import RunDirectory
from plait.rounds.run_plan import RunPlan
from plait.rounds.run_state import RankedAdapter, Ranks, RunState, initial_state, save_checkpoint
from plait.rounds.spool import Refused, Spool
from plait.rounds.validate import NormBound
from plait.simulation.simulation import VolatileMemory, shared_bytes
from plait.wire.settings import Settings

SETTINGS = Settings(
    local_steps=10,
    batch_size=32,
    gradient_accumulation_steps=1,
    seq_len=1,
    learning_rate=1e-2,
    weight_decay=0.0,
    max_grad_norm=1.0,
    held_out_fraction=0.1,
    max_held_out_sequences=1,
    seed=0,
    bits="fp32",
)


def run(
    folder: Path, clients: Sequence[Client], *, rule: str, bound: NormBound, rounds: int, seed: int
) -> tuple[RunState, list[dict[str, object]]]:
    """Run a federation; the state after it, and its ledger."""
    spec, initial = spec_and_initial()
    ranks = Ranks((RankedAdapter(8, spec, geometry_of(spec), initial),), resizing=ALL_RULES[rule].resizing)
    directory = RunDirectory.create(folder, config_toml="")
    state = initial_state(b"r" * 16, ranks)
    save_checkpoint(directory.checkpoints, state)
    ledger = Ledger(directory.ledger)
    ledger.append(
        RunStarted(
            run=state.run_id.hex(),
            seed=seed,
            config={},
            base=Base(name="made-up"),
            adapter=Adapter(trainable_parameters=spec.layout.size),
            full_model_bytes=0,
        )
    )
    plan = RunPlan(
        rounds=rounds,
        clients=len(clients),
        cohort_size=len(clients),
        eval_every=rounds,
        seed=seed,
        settings=SETTINGS,
        norm_bound=bound,
    )
    shared = shared_bytes()
    participants = [Participant(client.name, client, VolatileMemory(shared)) for client in clients]

    def aggregator(refused: Refused) -> Aggregator:
        spool = Spool(
            directory=directory,
            refused=refused,
            ranks=ranks,
            rule=ALL_RULES[rule],
            base_fingerprint=FINGERPRINT,
            plan=plan,
        )
        return Aggregator(spool, PlainFold(spool), optimizer_for("none"))

    coordinator = Coordinator(
        channel=LocalChannel(participants.__getitem__, len(participants)),
        directory=directory,
        ledger=ledger,
        plan=plan,
        make_aggregator=aggregator,
        publish=lambda _state: None,
    )
    try:
        state = coordinator.run(state)
    finally:
        ledger.close()
    return state, read_lines(directory.ledger)


@contextmanager
def no_waiting_for_the_disk():
    """Power cuts are not the experiment's matter, and fsync is most of its time."""
    fsync, os.fsync = os.fsync, lambda _descriptor: None
    try:
        yield
    finally:
        os.fsync = fsync

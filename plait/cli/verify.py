"""``plait verify``: whether a run's record is complete and true.

Chain, checkpoints and adapter are checked against the ledger; signatures too if clients had keys. If the updates were
kept (``--keep-updates``), every round is recomputed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.output import print_json
from plait.errors import PeerError

if TYPE_CHECKING:
    from plait.config import RunConfig
    from plait.rounds.events import Event
    from plait.rounds.run_directory import RunDirectory


def verify(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check a run's ledger, signatures, checkpoints and adapter; recompute its rounds if their updates were kept.

    Example: plait verify runs/first
    """
    from plait.config import config_from_table, read_config_table
    from plait.rounds.audit import check_signatures
    from plait.rounds.checkpoint import damage_of
    from plait.rounds.events import RoundFinished
    from plait.rounds.ledger import read_events, torn_bytes
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory.find(run)
    events = read_events(directory.ledger)
    torn = torn_bytes(directory.ledger)
    signed = check_signatures(events)
    checkpoints = damage_of(directory.checkpoints)
    for name, damage in checkpoints.items():
        if damage:
            raise PeerError(f"checkpoint '{name}' of '{run}' is damaged: {damage}")
    rounds = [event.adapter for event in events if isinstance(event, RoundFinished)]
    settings = config_from_table(read_config_table(directory.config), where=str(directory.config))
    adapter = _check_adapter(directory, rounds, settings)
    replayed = _replay(directory, events, settings) if settings.keep_updates else None
    if json_output:
        print_json(
            {
                "events": len(events),
                "torn_bytes": torn,
                "rounds": len(rounds),
                "signatures": signed,
                "replayed": replayed,
                "ok": True,
            }
        )
        return
    cut = f"; a torn last line of {torn} bytes is ignored" if torn else ""
    typer.echo(f"ledger       {len(events)} events, chain intact{cut}")
    typer.echo(f"checkpoints  {', '.join(checkpoints) or 'none'} intact")
    typer.echo(f"adapter      {adapter}")
    typer.echo(f"signatures   {f'{signed} updates, each by its own client' if signed else 'none; clients had no keys'}")
    typer.echo(
        "rounds       "
        + ("not recomputed (updates not kept)" if replayed is None else f"{replayed} recomputed, bit for bit")
    )


def _check_adapter(directory: RunDirectory, rounds: list[str], settings: RunConfig) -> str:
    """Describe the adapter in the run directory."""
    from plait.adapters import AdapterState, Layout, load_peft_directory
    from plait.rounds.checkpoint import finished_in_checkpoint

    if not rounds and not directory.adapter.exists():
        return "none yet; no round has finished"
    tensors = load_peft_directory(directory.adapter).tensors
    layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()})
    digest = AdapterState.from_tensors(layout, tensors).digest().hex()
    if rounds and digest == rounds[-1]:
        return f"that of round {len(rounds)}"
    # The run was killed between publishing a round's adapter and recording it in the ledger.
    last = finished_in_checkpoint(directory.checkpoints)
    if last and (last["adapter"], last["round"]) == (digest, len(rounds) + 1):
        return f"that of round {len(rounds) + 1}, which `plait resume` will finish"
    if rounds and _published(directory, settings) == (rounds[-1], digest):
        return f"that of round {len(rounds)}, in plain PEFT form"
    expected = rounds[-1][:16] if rounds else "none before the first round is finished"
    raise PeerError(f"adapter in '{directory.adapter}' is {digest[:16]}, expected {expected}")


def _published(directory: RunDirectory, settings: RunConfig) -> tuple[str, str]:
    """Digests of the newest checkpoint's adapter and of its published form."""
    from plait.flower.rules import ALL_RULES
    from plait.plan import ranks_of, rule_of
    from plait.rounds.checkpoint import load_checkpoint
    from plait.training.bases import locate_base, quiet_libraries
    from plait.training.published import published

    quiet_libraries()
    base = locate_base(settings.base, revision=settings.revision)
    ranks = ranks_of(settings, base.directory, rule_of(settings, ALL_RULES))
    state = load_checkpoint(directory.checkpoints, ranks)
    _, adapter = published(ranks.master.spec, state.shadow, ranks.master.geometry, state.base.moved)
    return state.shadow.digest().hex(), adapter.digest().hex()


def _replay(directory: RunDirectory, events: list[Event], settings: RunConfig) -> int:
    from plait.flower.rules import ALL_RULES
    from plait.plan import optimizer_of, plan_of, ranks_of, rule_of
    from plait.rounds.audit import replay
    from plait.rounds.beginning import begun, parents_in
    from plait.rounds.events import RunStarted
    from plait.rounds.folding import Folding, Refused
    from plait.rounds.recorded import weight_ratio_in
    from plait.rounds.run_state import initial_state
    from plait.stacking import beginning_of
    from plait.training.bases import locate_base, quiet_libraries

    quiet_libraries()
    base = locate_base(settings.base, revision=settings.revision)
    rule = rule_of(settings, ALL_RULES)
    ranks = ranks_of(settings, base.directory, rule)

    def folding(refused: Refused) -> Folding:
        return Folding(
            directory=directory,
            refused=refused,
            ranks=ranks,
            rule=rule,
            optimizer=optimizer_of(settings, rule),
            base_fingerprint=bytes.fromhex(base.reference.fingerprint),
            wire=settings.wire,
            seed=settings.seed,
            norm_bound=plan_of(settings).norm_bound,
            weighting=plan_of(settings).weighting,
            weight_ratio=weight_ratio_in(events),
        )

    run_id = next(event.run for event in events if isinstance(event, RunStarted))
    beginning = beginning_of(settings, ranks.master, base.reference.fingerprint)
    if beginning.parents != parents_in(events):
        raise PeerError("an adapter that the run started from has changed since, expected those that the ledger names")
    state = begun(
        initial_state(bytes.fromhex(run_id), ranks), beginning, ranks, bytes.fromhex(base.reference.fingerprint)
    )
    return replay(directory, events, state, folding)

"""``plait verify``: check that a run's record is whole and that the adapter on disk is the one it ends with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json
from plait.errors import PeerError


def verify(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check the hash chain of a run's ledger, and the adapter against it.

    Example: plait verify runs/first
    """
    from plait.adapters import AdapterState, Layout, load_peft_directory
    from plait.rounds.ledger import read_events
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory.find(run)
    events = read_events(directory.ledger)
    digests = [event["adapter"] for event in events if event["event"] in ("round_finished", "run_finished")]
    if digests:
        tensors = load_peft_directory(directory.adapter).tensors
        layout = Layout.of({name: tensor.shape for name, tensor in tensors.items()})
        digest = AdapterState.from_tensors(layout, tensors).digest().hex()
        if digest != digests[-1]:
            raise PeerError(f"adapter in '{directory.adapter}' is {digest[:16]}, expected {str(digests[-1])[:16]}")
    if json_output:
        print_json({"events": len(events), "rounds": len(set(digests)), "ok": True})
    else:
        typer.echo(f"{len(events)} events, chain whole; " + ("adapter matches" if digests else "no round finished yet"))

"""``plait submit``: put a run into the queue of a standing server."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.output import print_json, print_text
from plait.config import config_from_table
from plait.errors import PeerError
from plait.features.standing.operating import JsonOutput, Kit, Server, calls_to
from plait.progress import say
from plait.settings.toml import read_config_table
from plait.text import printable

if TYPE_CHECKING:
    from plait.features.standing.calls import OperatorCalls

_LOOK_S = 1.0


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings of the run, as for --config.")],
    server: Server = "localhost:9440",
    kit: Kit = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher ones run first.", min=-1000, max=1000)] = 0,
    cohort_labels: Annotated[
        str, typer.Option("--cohort-labels", help="Only clients that state all of these labels, such as gpu,region=eu.")
    ] = "",
    name: Annotated[str, typer.Option("--name", help="Name of the run; by default run-1, run-2 …")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run is over; exit code 1 if it failed.")] = False,
    json_output: JsonOutput = False,
) -> None:
    """Submit a run to a standing server (`plait server --stay`); an operator's kit is needed.

    Example: plait submit run.toml --server fed.example.org:9440 --kit olga --wait
    """
    from plait.transport.labels import parse_labels

    labels = parse_labels(cohort_labels, what="--cohort-labels")
    settings = config_from_table(read_config_table(config), where=str(config))
    calls = calls_to(server, kit)
    run = calls.submit(settings.to_table(), priority=priority, cohort_labels=labels, name=name)
    if not wait:
        if json_output:
            print_json({"run": run, "state": "queued"})
        else:
            print_text(f"submitted {run}; `plait runs` shows the queue")
        return
    ended = _followed(calls, run, quiet=json_output)
    if json_output:
        print_json(ended)
    if ended.get("state") != "finished":
        raise PeerError(f"run {run} is {ended.get('state')}: {ended.get('detail')}")
    if not json_output:
        print_text(f"{run} is finished; `plait fetch {run} DIR` gets its adapter and report")


def _followed(calls: OperatorCalls, run: str, *, quiet: bool) -> dict[str, object]:
    """The run once it is over; meanwhile its state is shown whenever it changes."""
    from plait.features.standing.calls import AwayError

    shown = ""
    while True:
        try:
            entry = calls.run(run)
            state = str(entry.get("state"))
            if state not in ("queued", "running"):
                return entry
            now = f"{run} is {state}" + (
                f", round {entry['round']} of {entry.get('rounds')}" if "round" in entry else ""
            )
        except AwayError as away:
            now = f"{away}; trying again"
        if now != shown:
            say(printable(now), quiet=quiet)
            shown = now
        time.sleep(_LOOK_S)

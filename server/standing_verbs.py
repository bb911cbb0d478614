"""``plait server --stay``, ``submit``, ``runs``, ``cancel`` and ``fetch``: a queue of runs, and the calls to it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.output import print_json, print_tables, print_text
from plait.cli.serving import GraceS, Insecure, Listen, Metrics, log_to, stop_on_signals
from plait.cli.serving import Kit as ServersKit
from plait.config import config_from_table
from plait.progress import say
from plait.settings.toml import read_config_table
from plait.text import printable

if TYPE_CHECKING:
    from plait.adapters import Json  # brings numpy along
    from server.calls import OperatorCalls

_MOST_CHARACTERS = 200
_HEADINGS = ("run", "state", "priority", "base", "method", "rule", "detail")

_Server = Annotated[str, typer.Option("--server", help="Address and port of the server.")]
_Kit = Annotated[Path | None, typer.Option("--kit", help="An operator's kit; not needed for an --insecure server.")]
_Run = Annotated[str, typer.Argument(help="Name of the run, as `plait runs` shows it.")]
_JsonOutput = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def server(
    listen: Listen = "127.0.0.1:9440",
    kit: ServersKit = None,
    insecure: Insecure = False,
    out: Annotated[Path, typer.Option("--out", help="Directory of the queue and of all runs.")] = Path("federation"),
    metrics: Metrics = "",
    grace_s: GraceS = 30.0,
    give_up_s: Annotated[
        float,
        typer.Option(
            "--give-up-s", help="Seconds until plait ends a run whose connected clients cannot take part.", min=0.1
        ),
    ] = 120.0,
) -> None:
    """Stay between runs; an operator submits them, with their settings, by `plait submit`.

    To continue after a stop or a crash, give the same command again.

    Example: plait server --stay --kit fed/server --listen 0.0.0.0:9440 --out federation
    """
    from plait.api.serving import Serving
    from plait.transport.process import share_memory_between_threads
    from server.standing import Standing

    serving = Serving.of({"listen": listen, "kit": kit, "insecure": insecure, "metrics": metrics, "grace_s": grace_s})
    share_memory_between_threads()
    standing = Standing(out, serving, give_up_s=give_up_s)
    log_to(out / "server.log")
    stop_on_signals("the same command")
    standing.serve(on_start=lambda address: say(f"serving on {address}; runs come from `plait submit`", quiet=False))


def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Settings of the run, as for --config.")],
    server: _Server = "localhost:9440",
    kit: _Kit = None,
    priority: Annotated[int, typer.Option("--priority", help="Higher ones run first.", min=-1000, max=1000)] = 0,
    name: Annotated[str, typer.Option("--name", help="Name of the run; by default run-1, run-2 …")] = "",
    json_output: _JsonOutput = False,
) -> None:
    """Submit a run to a standing server (`plait server --stay`); an operator's kit is needed.

    Example: plait submit run.toml --server fed.example.org:9440 --kit olga
    """
    settings = config_from_table(read_config_table(config), where=str(config))
    run = _calls_to(server, kit).submit(settings.to_table(), priority=priority, name=name)
    said = f"submitted {run}; `plait runs` shows the queue, `plait fetch {run} DIR` gets it once it is over"
    _tell(json_output, said, run=run, state="queued")


def runs(server: _Server = "localhost:9440", kit: _Kit = None, json_output: _JsonOutput = False) -> None:
    """List the newest queued, running and past runs of a standing server.

    Example: plait runs --server fed.example.org:9440 --kit olga
    """
    found = _calls_to(server, kit).runs()
    if json_output:
        print_json({"runs": found})
        return
    from plait.report.table import Table

    # It came over a network: nothing in it is trusted.
    rows = tuple(tuple(printable(str(run.get(key, "")), limit=_MOST_CHARACTERS) for key in _HEADINGS) for run in found)
    print_tables([Table("Runs", _HEADINGS, rows, text_columns=(0, 1, 3, 4, 5, 6))])


def cancel(run: _Run, server: _Server = "localhost:9440", kit: _Kit = None, json_output: _JsonOutput = False) -> None:
    """Cancel a queued or running run; an operator's kit is needed. Its record stays at the server.

    Example: plait cancel run-3 --server fed.example.org:9440 --kit olga
    """
    was = _calls_to(server, kit).cancel(run)
    _tell(json_output, f"cancelled {run}, which was {was}", run=run, was=was, state="cancelled")


def fetch(
    run: _Run,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it; a new directory.")],
    server: _Server = "localhost:9440",
    kit: _Kit = None,
    max_gb: Annotated[float, typer.Option("--max-gb", help="Largest run to fetch.", min=0)] = 20.0,
    json_output: _JsonOutput = False,
) -> None:
    """Fetch adapter, report, ledger and settings of a run that is over; of one that failed, ledger and settings.

    Example: plait fetch run-3 runs/third --server fed.example.org:9440 --kit olga
    """
    files: list[Json] = [str(file) for file in _calls_to(server, kit).fetch(run, directory, max_gb=max_gb)]
    said = f"fetched {len(files)} files of {run} into {directory}"
    _tell(json_output, said, run=run, directory=str(directory), files=files)


def _tell(as_json: bool, text: str, **figures: Json) -> None:
    if as_json:
        print_json(figures)
    else:
        print_text(text)


def _calls_to(server: str, kit: Path | None) -> OperatorCalls:
    from plait.address import Address
    from plait.trust.kit import StaffKit
    from server.calls import OperatorCalls

    return OperatorCalls(Address.parse(server, what="server"), None if kit is None else StaffKit.load(kit))

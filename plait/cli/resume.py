"""``plait resume``: continue a run that stopped; with ``--withdraw``, make its adapter again without a client."""

from pathlib import Path
from typing import Annotated

import typer

from plait.api.received import admitted_settings
from plait.api.running import go_on
from plait.api.serving import load_serving
from plait.api.simulate import check_unfinished
from plait.cli.options import Allow, PageAddress
from plait.cli.output import RunOrNewest, print_text, run_or_newest
from plait.cli.simulate import Verbose, page_of_run, show, stopped_by_interrupt, with_resume_hint
from plait.cli.verbs import SERVE_AGAIN
from plait.config import RunConfig, to_toml
from plait.errors import ConfigError
from plait.report.summary import write_report
from plait.report.terminal import say, status
from plait.rounds.run_directory import RunDirectory
from plait.system.files import write_atomically


def resume(
    run: RunOrNewest = None,
    allow: Allow = None,
    page: PageAddress = "",
    json_output: Annotated[bool, typer.Option("--json", help="Print summary.json and nothing else.")] = False,
    verbose: Verbose = False,
) -> None:
    """Continue a run from where it stopped; the resulting adapter is the same, bit for bit.

    Example: plait resume runs/first
    """
    path = run_or_newest(run, quiet=json_output)
    directory = RunDirectory.find(path)
    serving = load_serving(directory.server)
    check_unfinished(directory)
    settings = admitted_settings(directory, allow or (), serving=serving)
    say(f"resuming {path}", quiet=json_output)
    with with_resume_hint(settings, serving, page=page):
        if serving:
            SERVE_AGAIN.load()(directory, settings, serving, page=page, quiet=json_output)
        else:
            with page_of_run(path, page), stopped_by_interrupt(quiet=json_output) as stop:
                go_on(directory, settings, stop=stop, quiet=json_output)
        show(path, json_output=json_output, verbose=verbose)


def withdraw(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    client: Annotated[str, typer.Option("--withdraw", help="Who withdraws.", metavar="CLIENT")],
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run without it; by default RUN-without-NAME.")
    ] = None,
    kit: Annotated[Path | None, typer.Option(help="An operator's kit, whose key signs the tombstone.")] = None,
    among: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of adapters that may come from this one; may be repeated."),
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="Show what it takes, and change nothing.")] = False,
    allow: Allow = None,
) -> None:
    """Withdraw a client: the others train again without it, its files are erased, and the ledger keeps a tombstone.

    After an interruption, repeat it. For a served run it first writes the settings to serve the others with.

    Example: plait resume runs/first --withdraw alice
    """
    from plait.api.withdrawing import carry_out, plan_of  # brings torch along

    directory = RunDirectory.find(run)
    settings = admitted_settings(directory, allow or (), without=("publish", "callbacks"))
    with status("reading the run", quiet=False):
        plan = plan_of(directory, settings, client, out=out, among=among or ())
    print_text(plan.estimate)
    for place in plan.descendants:
        print_text(f"made from its adapter, and not changed: '{place}'")
    if estimate:
        return

    def train_again(again: RunConfig) -> None:
        if not again.data:
            settings_file = plan.out.with_name(f"{plan.out.name}.toml")
            write_atomically(settings_file, to_toml(again).encode())
            raise ConfigError(
                f"the clients of '{run}' have their own data: revoke '{client}' (plait provision --revoke), serve "
                f"the others with plait server --config {settings_file} --out {plan.out} --kit …, then repeat this"
            )
        go_on(RunDirectory(plan.out), again, quiet=False)

    tombstone = carry_out(plan, train_again, kit=kit)
    with status("writing the report", quiet=False):
        write_report(directory.path)
    kept = f"the adapter without it is {tombstone.adapter[:16]}, of '{plan.out}'" if tombstone.adapter else "it stays"
    print_text(f"'{client}' is withdrawn: {kept}; {len(tombstone.erased)} files of its were erased")

"""``plait sweep``: all runs of a grid of settings, with the base loaded once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from plait.cli.options import with_run_options
from plait.cli.output import print_json, print_tables, print_text
from plait.cli.simulate import stopped_by_interrupt
from plait.config import RunConfig
from plait.errors import ConfigError, Interrupted
from plait.progress import say, status

if TYPE_CHECKING:
    from plait.features.studies.grid import Cell
    from plait.features.studies.sweeping import State, Sweep


@with_run_options(hidden=tuple(name for name in RunConfig.model_fields if name not in ("base", "data", "out")))
def sweep(
    given: Mapping[str, object],
    grid: Annotated[Path, typer.Argument(help="TOML of settings; lists stand under [grid]: rank = [4, 8].")],
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, separated by commas, in place of the file's.")] = "",
    jobs: Annotated[int, typer.Option("--jobs", help="Runs side by side; set threads too.", min=1)] = 1,
    page: Annotated[Path | None, typer.Option("--page", help="Also write one self-contained HTML page.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the results as JSON and nothing else.")] = False,
) -> None:
    """Run every combination of settings in a file and compare them; repeat it to continue where it stopped.

    Settings that are the same for all runs can also be given as options, as for `plait simulate`.

    Example: plait sweep grid.toml --out runs/grid --seeds 0,1,2
    """
    settings = dict(given)
    out = settings.pop("out", None)
    if "seed" in settings:
        raise ConfigError("--seed is given; give --seeds")
    wanted = _seeds(seeds)
    with status("loading libraries", quiet=json_output):
        from plait.features.studies.sweeping import sweep as do_sweep
        from plait.features.studies.tables import comparison_tables

    count = 0

    def show(cell: Cell, state: State, found: Sweep) -> None:
        nonlocal count
        count += 1
        say(f"[{count}/{len(found.grid.cells)}] {cell.label}, seed {cell.seed}: {_text(state)}", quiet=json_output)

    try:
        with stopped_by_interrupt(quiet=json_output) as stop:
            done = do_sweep(
                grid,
                out=str(out) if out else None,
                given=settings,
                seeds=wanted,
                jobs=jobs,
                stop=stop,
                on_run=show,
            )
    except (Interrupted, KeyboardInterrupt) as stopped:
        raise Interrupted("stopped by the user; continue with the same command") from stopped
    # Reads the ledgers of all runs.
    comparison = done.comparison if len(done.states) > len(done.failed) else None
    if page is not None and comparison:
        from plait.files import write_atomically

        write_atomically(page, comparison.page().encode())
    if json_output:
        print_json({"runs": done.rows(), "comparison": comparison.to_json() if comparison else None})
    else:
        print_tables(comparison_tables(comparison) if comparison else ())
        for note in comparison.notes if comparison else ():
            say(f"note: {note}", quiet=False)
        print_text(f"results  {done.path / 'results.csv'}")
    for name, error in done.failed.items():
        say(f"failed: {name}: {error}", quiet=False)
    if done.failed:
        raise typer.Exit(1)


def _text(state: State) -> str:
    from plait.report.wording import bytes_text, duration_text, loss_text

    if state.status != "finished":
        return f"{state.status}{': ' if state.error else ''}{state.error}"
    loss, sent, wall_s = (state.figures.get(name) for name in ("loss", "bytes", "wall_s"))
    parts = [f"held-out loss {loss_text(loss)}" if isinstance(loss, float) else "not evaluated"]
    parts += [bytes_text(sent)] if isinstance(sent, int) else []
    parts += [duration_text(wall_s)] if isinstance(wall_s, float) else []
    return ", ".join(parts)


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise ConfigError(f"--seeds is '{text}', expected whole numbers separated by commas")
    return tuple(map(int, parts))

"""``plait init`` and ``plait estimate``: before a run, a commented file of its settings, and what it would send."""

import json
import shlex
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from plait.api.running import check_names
from plait.cli.options import ConfigFile, run_config, with_run_options
from plait.cli.output import print_json, print_tables
from plait.config import RunConfig
from plait.data import Dataset, as_dataset
from plait.errors import ConfigError
from plait.plugins import admit
from plait.report.terminal import say, status
from plait.settle import settle
from plait.simulation.scheme import default_scheme, likely_clients
from plait.system.files import write_atomically
from plait.training.bases import quiet_libraries

_LEAST, _MOST = 2, 32
_COLUMNS = 90
_OPEN = ("data", "columns", "partition", "clients", "base", "rounds", "seq_len")
"""What the file sets; the rest is a comment, at its default."""
_CLOSED = (
    *("local_steps", "batch_size", "method", "rank", "rule", "bits"),
    *("personalize", "dp", "secure_aggregation", "seed"),
)


def init(
    data: Annotated[
        str,
        typer.Argument(
            help="File, folder, data set of the hub or built-in; leave it out to be asked.", metavar="[DATA]"
        ),
    ] = "",
    columns: Annotated[
        str, typer.Option(help="Columns that have other names, such as text=body; see plait simulate.")
    ] = "",
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("plait.toml"),
) -> None:
    """Write a commented file of settings for a first run, from three answers or from a data file alone.

    Example: plait init my.jsonl && plait simulate --config plait.toml
    """
    if out.exists():
        raise ConfigError(f"'{out}' is there already; remove it, or give another --out")
    asks = not data
    if asks and not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on; name the data: plait init my.jsonl")
    data = data or _ask("Your data (file, folder, hub data set or built-in)", RunConfig().data)
    with status(f"reading {data}", quiet=False):
        admit(data)
        dataset = as_dataset(data, columns=columns)
    scheme = default_scheme(dataset)
    column = scheme.column or likely_clients(dataset, scheme)
    if asks:
        names = ", ".join(dataset.column_names) or "none"
        column = _ask(
            f"Column that names the client, or nothing to split the records at random (columns: {names})", column
        )
    base = _ask("Base (built-in, directory or hub id)", RunConfig().base) if asks else RunConfig().base
    named = {"columns": columns} if columns else {}
    chosen: dict[str, str | int] = {"data": data, **named, "base": base, **_clients(dataset, column)}
    write_atomically(out, _settings_file(chosen, name=str(out)).encode())
    say(f"wrote {out}; run it with: plait simulate --config {shlex.quote(str(out))}", quiet=False)


def _clients(dataset: Dataset, column: str) -> dict[str, str | int]:
    if not column:
        return {"partition": "iid"}
    values = set(dataset.column(column)) - {None}
    if len(values) < _LEAST:
        raise ConfigError(f"column '{column}' has {len(values)} values, expected one for each of several clients")
    return {"partition": f"natural:{column}", "clients": min(len(values), _MOST)}


def _ask(question: str, default: str) -> str:
    shown = f" [{default}]" if default else ""
    return input(f"{question}{shown}: ").strip() or default


def _settings_file(chosen: Mapping[str, str | int], *, name: str) -> str:
    """The settings that matter at first, each with what it means, as TOML."""
    fields = RunConfig.model_fields

    def entry(key: str, mark: str) -> str:
        described = " ".join((fields[key].description or "").split()).partition("; ")[0]
        comment = textwrap.fill(described, _COLUMNS, initial_indent="# ", subsequent_indent="# ")
        return f"{comment}\n{mark}{key.replace('_', '-')} = {json.dumps(chosen.get(key, fields[key].default))}"

    parts = [
        f"# Settings of a run. Run it:  plait simulate --config {name}",
        *(entry(key, "") for key in _OPEN if key not in ("columns", "partition") or key in chosen),
        "# Defaults; remove a # to change one. All others: plait simulate --help-all",
        *(entry(key, "# ") for key in _CLOSED if key in fields),
    ]
    return "\n\n".join(parts) + "\n"


_RECORDS = "Records that a client trains on, for --dp record; with --group how many groups they are of."


@with_run_options
def estimate(
    given: Mapping[str, object],
    config: ConfigFile = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate/--no-evaluate", help="Count the evaluations, by every client if not by fewer.")
    ] = True,
    records: Annotated[int | None, typer.Option(min=1, help=_RECORDS)] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the estimate as JSON.")] = False,
) -> None:
    """Count the bytes of a run and what they save, without running it; takes the options of `plait simulate`.

    Example: plait estimate --base mistral-7b --rank 32 --target-modules q_proj,v_proj --clients 20 --rounds 200
    """
    settings = run_config(given, config)
    check_names(settings, runs=False)

    with status("reading the base's config", quiet=json_output):
        quiet_libraries()
        settled = settle(settings)
        from plait.api.sizes import estimated  # torch

        costs = estimated(settled, evaluates=evaluate and settled.config.evaluates, records=records)
    if json_output:
        print_json(costs.to_json())
        return
    print_tables(costs.tables())

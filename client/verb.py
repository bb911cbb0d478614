"""``plait client``: take part in a federation with this machine's own data, for as long as it runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Unpack, get_args, get_type_hints

import typer

from client.settings import CommandOptions, Place, check_settings
from plait.errors import ConfigError


def client(*, json_output: bool, quiet: bool, **given: Unpack[CommandOptions]) -> None:
    """Take part in a federation with your own data, which stays on this machine.

    It reconnects until the run is over, or waits for the next one if the server stays between runs. Ctrl-C stops it
    after the current training step.

    Example: plait client --kit kit/clients/alice --server plait.example.org:9440 --data alice.jsonl
    """
    if json_output and quiet:
        raise ConfigError("json and quiet are both given; give one of them")
    from client.journal import Journal, Style
    from client.process import run_node

    settings = check_settings(**given)
    chosen = Style.JSON if json_output else Style.QUIET if quiet else Style.LINES
    run_node(settings, Journal(chosen, sys.stdout if json_output else sys.stderr))


def _options() -> Iterator[inspect.Parameter]:
    """The options of the command: those of a node, and how it tells what it does."""
    usual = {str: "", bool: False, int: 0, float: 0.0, Place: None}
    hints = get_type_hints(CommandOptions, include_extras=True)
    for name, said in sorted(hints.items(), key=lambda hint: hint[0] not in CommandOptions.__required_keys__):
        kind, help_text = get_args(said)
        default = inspect.Parameter.empty if name in CommandOptions.__required_keys__ else usual.get(kind, ())
        if name in ("device", "dtype"):
            default = "auto"
        option = typer.Option(f"--{name.replace('_', '-')}", help=help_text)
        if name == "allow_plugins":
            kind, option = list[str], typer.Option("--allow-plugin", help=help_text, metavar="MODULE")
        yield _option(name, default, Annotated[Path | None if kind == Place else kind, option])
    yield _option("json_output", False, Annotated[bool, typer.Option("--json", help="Print events as lines of JSON.")])
    yield _option("quiet", False, Annotated[bool, typer.Option("--quiet", help="Print only errors.")])


def _option(name: str, default: object, annotation: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


client.__signature__ = inspect.Signature(list(_options()))  # pyright: ignore[reportFunctionMemberAccess]
client.__annotations__ = {}

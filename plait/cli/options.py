"""The settings of a run as command-line options, generated from `RunConfig` so that each is described once."""

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import click
import typer
from pydantic.fields import FieldInfo
from rich.text import Text
from typer.core import TyperCommand

from plait.config import ALIASES, RunConfig, config_from_table, is_foreign, key_named, sections
from plait.errors import ConfigError
from plait.plugins import admit
from plait.rounds.run_directory import RunDirectory
from plait.settings.table import read_config_table

PageAddress = Annotated[
    str,
    typer.Option(
        "--page",
        help="Live page for this machine alone, such as 127.0.0.1:9443, while the command runs.",
        metavar="HOST:PORT",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Name again a setting of the run that leads out of its directory (code, data, addresses); may be "
        "repeated.",
        metavar="KEY=VALUE",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with the same keys; options override it.")]

_FIRST = (
    "data", "partition", "base", "clients", "rounds", "local_steps", "batch_size", "seq_len", "learning_rate", "method",
    "rank", "rule", "bits", "out", "dp",
)  # fmt: skip
"""What ``--help`` shows; ``--help-all`` shows the others too."""

_PANEL = "Settings of the run"
_HELP_ALL = "help_all"

_OF_RUN = "takes_settings_of_a_run"

_METAVARS: Mapping[str, str] = {
    "personalize": "FLOAT|auto",
    "judge_part": "INTEGER|auto",
    "dp_clip": "FLOAT|adaptive",
    "bits": "fp32|bf16|BITS",
    "norm_bound": "auto|off|NUMBER|clip:NUMBER",
    "device": "auto|cpu|cuda|cuda:N|mps|A,B,…",
}


def with_run_options(command: Callable[..., None], *, hidden: Collection[str] = ()) -> Callable[..., None]:
    """Add every setting of a run to a command as an option; the command gets those given as one ``given`` mapping."""
    parameters = inspect.signature(command, eval_str=True).parameters
    own = [parameter for name, parameter in parameters.items() if name != "given"]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _plain_type(field.annotation) | None,
                typer.Option(
                    _flag(name, field.annotation),
                    help=_help(_described(field).partition("; ")[0], field.default),
                    metavar=_choices(field.annotation) or (None if name in _FIRST else _METAVARS.get(name)),
                    hidden=name in hidden or name not in _FIRST,
                    rich_help_panel=_PANEL,
                    show_default=False,
                ),
            ],
        )
        for name in (*_FIRST, *(each for each in RunConfig.model_fields if each not in _FIRST))
        for field in (RunConfig.model_fields[name],)
    ]
    shown = {name for name in RunConfig.model_fields if name not in hidden}

    def show_all(context: typer.Context, value: bool) -> None:
        if value:
            typer.echo(_help_of_all(context, shown), nl=False)
            raise typer.Exit

    if shown - set(_FIRST):
        way = typer.Option(
            "--help-all", is_eager=True, callback=show_all, show_default=False, help="Show all options, and exit."
        )
        options.append(
            inspect.Parameter(_HELP_ALL, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, way])
        )

    def wrapper(**values: object) -> None:
        values.pop(_HELP_ALL, None)
        names = {parameter.name for parameter in own}
        given = {name: value for name, value in values.items() if name not in names and value is not None}
        command(given=given, **{name: value for name, value in values.items() if name in names})

    setattr(wrapper, _OF_RUN, True)
    wrapper.__name__ = command.__name__
    wrapper.__doc__ = command.__doc__
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wrapper.__signature__ = inspect.Signature([*keyword_only, *options])  # pyright: ignore[reportFunctionMemberAccess]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return wrapper


def _help_of_all(context: typer.Context, shown: Collection[str]) -> str:
    """All options of a command, by table; no name is cut, however narrow the terminal."""
    formatter = context.make_formatter()
    context.command.format_usage(context, formatter)
    formatter.write_paragraph()
    formatter.write_text((context.command.help or "").partition("\n")[0])
    parameters = {each.name or "": each for each in context.command.get_params(context)}
    settings = RunConfig.model_fields
    with formatter.section("Options"):
        formatter.write_dl([_record(each) for name, each in parameters.items() if name not in settings])
    for group, names in sections():
        rows = [_record(parameters[name], settings[name]) for name in names if name in shown]
        if rows:
            with formatter.section(group.heading + (f", [{group.table}] in TOML" if group.table else "")):
                formatter.write_dl(rows)
    return formatter.getvalue()


def _record(parameter: click.Parameter, setting: FieldInfo | None = None) -> tuple[str, str]:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    is_flag = isinstance(parameter, click.Option) and parameter.is_flag
    chosen = _METAVARS.get(parameter.name or "") or _choices(setting.annotation) if setting else None
    metavar = "" if is_flag else f" {chosen or parameter.metavar or parameter.type.name.upper()}"
    text = getattr(parameter, "help", None) or ""
    if setting:
        text = _help(_described(setting), setting.default)
    return names + metavar, Text.from_markup(text).plain


def _described(setting: FieldInfo) -> str:
    return " ".join((setting.description or "").split())


class FiniteCommand(TyperCommand):
    """A command whose numbers are numbers: none is NaN or infinite, which no bound refuses."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        left = super().parse_args(ctx, args)
        for name, value in ctx.params.items():
            if isinstance(value, float) and not math.isfinite(value):
                ctx.fail(f"{name.replace('_', '-')} is {value}, expected a finite number")
        return left


class RunCommand(FiniteCommand):
    """A command with the settings of a run, whose errors name the nearest of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        try:
            return super().parse_args(ctx, [*args])
        except click.NoSuchOption as error:
            names = {name.lstrip("-"): name for each in self.params for name in each.opts}
            names |= {name: f"--{key}" for name, key in ALIASES.items()}
            near = difflib.get_close_matches(error.option_name.lstrip("-"), names, n=1, cutoff=0.5)
            hint = f"; did you mean '{names[near[0]]}'?" if near else ""
            ctx.fail(f"No such option '{error.option_name}'{hint}")
        except click.UsageError as error:
            words = [word for word in args if f"extra argument ({word})" in error.message]
            if not words:
                raise
            ctx.fail(f"'{words[0]}' is not an option; to give data, use --data {words[0]}")


def command_of(verb: str, function: Callable[..., None], *, forwards: bool = False) -> click.Command:
    """The command of a verb; one that `forwards` takes every option, ``--help`` included, as an argument."""
    forwarding = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings=forwarding if forwards else {"help_option_names": ["-h", "--help"]},
    )
    app.command(name=verb, cls=RunCommand if hasattr(function, _OF_RUN) else FiniteCommand)(function)
    return typer.main.get_command(app)


def spelled(arguments: Sequence[str]) -> list[str]:
    """A command line with plait's own names for settings where it has those of other systems, such as ``--lr``."""
    if not arguments or arguments[0] not in ("simulate", "server", "estimate"):
        return list(arguments)
    # A server's own option of this name is where its counters are read.
    own = () if arguments[0] != "server" else ("--metrics",)
    return [arguments[0], *(word if word.partition("=")[0] in own else _spelled(word) for word in arguments[1:])]


def _spelled(word: str) -> str:
    name, equals, value = word.removeprefix("--").partition("=")
    if not word.startswith("--") or not is_foreign(name):
        return word
    return f"--{key_named(name, where='command line')}{equals}{value}"


def run_config(given: Mapping[str, object], config_file: Path | None) -> RunConfig:
    """Settings from a TOML file and the command line, which wins. Plug-ins that they name may be imported."""
    checked = config_from_table(read_config_table(config_file), where=str(config_file)) if config_file else RunConfig()
    if config_file:
        _check_received(config_file, checked, given)
    table = {name: getattr(checked, name) for name in checked.model_fields_set}
    config = config_from_table({**table, **given}, where="command line" if not config_file else "settings")
    admit(*config.plugins)
    return config


def _check_received(file: Path, settings: RunConfig, given: Mapping[str, object]) -> None:
    """Refuse a file of a run's directory that names what the command does not."""
    directory = RunDirectory(file.parent)
    if file.name != directory.config.name or not directory.has_started:
        return
    from plait.api.received import leads_out, options  # a plain run needs none

    given_keys = {name.replace("_", "-") for name in given}
    if missing := {key: value for key, value in leads_out(settings).items() if key not in given_keys}:
        raise ConfigError(
            f"'{file}' belongs to a run and names what lies outside its directory, and plait uses nothing of that "
            f"which you do not name again; if you trust it, add {options(missing)}"
        )


def _plain_type(annotation: object) -> type:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return str
    return annotation if isinstance(annotation, type) else str


def _flag(name: str, annotation: object) -> str:
    # A switch can also be turned off, so that a command can spell out every setting.
    key = name.replace("_", "-")
    return f"--{key}/--no-{key}" if annotation is bool else f"--{key}"


def _choices(annotation: object) -> str | None:
    """The values of an option that accepts a fixed set."""
    return "|".join(map(str, get_args(annotation))) if get_origin(annotation) is Literal else None


def _help(description: str, default: object) -> str:
    # The text of a switch states what turning it on does.
    if default in ("", None) or isinstance(default, bool):
        return description
    return f"{description} {shown_default(default)}"


def shown_default(default: object) -> str:
    """A default as the help shows it."""
    return f"[dim]\\[default: {default}][/dim]"

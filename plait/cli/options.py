"""The settings of a run as command-line options, generated from `RunConfig` so that each is described once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

import typer

from plait.config import RunConfig, config_from_table, read_config_table
from plait.errors import ConfigError
from plait.plugins import admit

PageAddress = Annotated[
    str,
    typer.Option(
        "--page",
        help="Address of a live page for this machine alone, such as 127.0.0.1:9443, as long as the command runs.",
        metavar="HOST:PORT",
    ),
]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        help="Of a run that did not begin on this machine: a setting that leads out of its directory (code, data, "
        "addresses), which may be used; may be repeated.",
        metavar="KEY=VALUE",
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file with the same keys; options override it.")]

_PANELS: Mapping[str, tuple[str, ...]] = {
    "Data and base": (
        "data", "columns", "split", "base", "revision", "partition", "labels", "held_out_fraction",
        "max_held_out_sequences",
    ),
    "Rounds": (
        "clients", "tree", "clients_per_round", "rounds", "rounds_mode", "buffer",
        "eval_every", "eval_clients", "rule", "weighting",
        "server_optimizer", "wire", "keep", "patience",
        "reference", "seed", "out", "publish", "report_to", "callbacks",
    ),
    "Clients that fail or lie": (
        "quorum", "deadline_s", "over_selection", "norm_bound", "keep_updates",
    ),
    "Privacy": (
        "secure_aggregation", "dp", "dp_epsilon", "dp_noise_multiplier", "dp_delta", "dp_clip", "dp_min_separation",
    ),
    "Adapter": (
        "method", "rank", "client_ranks", "rank_pattern", "alpha", "dropout", "target_modules", "bias",
        "init_adapter", "init_mode",
    ),
    "Machine": ("device", "dtype", "threads", "side_by_side", "fleet"),
}  # fmt: skip

_LOCAL_TRAINING = "Local training"
"""The panel of every setting that no other panel has."""

_METAVARS: Mapping[str, str] = {
    "own_share": "FLOAT|auto",
    "dp_clip": "FLOAT|adaptive",
    "wire": "fp32|bf16|BITS",
    "norm_bound": "auto|off|NUMBER|clip:NUMBER",
    "device": "auto|cpu|cuda|cuda:N|mps|A,B,…",
}


def with_run_options(*, hidden: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add every setting of a run to a command as an option; the command gets those given as one ``given`` mapping.

    Args:
        hidden: settings to leave out of its help.
    """
    return lambda command: _with_run_options(command, hidden)


def _with_run_options(command: Callable[..., None], hidden: Collection[str]) -> Callable[..., None]:
    own = [
        parameter
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.name != "given"
    ]
    panels = {name: panel for panel, names in _PANELS.items() for name in names}
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _plain_type(field.annotation) | None,
                typer.Option(
                    _flag(name, field.annotation),
                    help=_help(" ".join((field.description or "").split()), field.default),
                    metavar=_METAVARS.get(name) or _choices(field.annotation),
                    hidden=name in hidden,
                    rich_help_panel=panels.get(name, _LOCAL_TRAINING),
                    show_default=False,
                ),
            ],
        )
        for name, field in RunConfig.model_fields.items()
    ]

    def wrapper(**values: object) -> None:
        given = {name: values.pop(name) for name in RunConfig.model_fields}
        command(given={name: value for name, value in given.items() if value is not None}, **values)

    wrapper.__name__ = command.__name__
    wrapper.__doc__ = command.__doc__
    keyword_only = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    wrapper.__signature__ = inspect.Signature([*keyword_only, *options])  # pyright: ignore[reportFunctionMemberAccess]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return wrapper


def run_config(given: Mapping[str, object], config_file: Path | None) -> RunConfig:
    """Settings from a TOML file and the command line; the command line wins. Plug-ins that they name may be imported.

    Raises:
        ConfigError: an unknown key, a bad value, or a file that cannot be read.
    """
    from_file = read_config_table(config_file) if config_file else {}
    checked = config_from_table(from_file, where=str(config_file)) if config_file else RunConfig()
    if config_file:
        _check_received(config_file, checked, given)
    table = {name: getattr(checked, name) for name in checked.model_fields_set}
    config = config_from_table({**table, **given}, where="command line" if not config_file else "settings")
    admit(*config.plugins)
    return config


def _check_received(file: Path, settings: RunConfig, given: Mapping[str, object]) -> None:
    """Refuse the settings in a run's directory that lead out of it, unless it began here or they are given again."""
    from plait.api.received import leads_out, options
    from plait.rounds.recorded_settings import began_here
    from plait.rounds.run_directory import RunDirectory

    directory = RunDirectory(file.parent)
    if file.name != directory.config.name or not directory.has_started or began_here(directory):
        return
    given_keys = {name.replace("_", "-") for name in given}
    if missing := {key: value for key, value in leads_out(settings).items() if key not in given_keys}:
        raise ConfigError(
            f"'{file}' is of a run that was not begun by you on this machine, so nothing that it names outside itself "
            f"is used unless you name it again; if you trust it, add {options(missing)}"
        )


def _plain_type(annotation: object) -> type:
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return str
    return annotation if isinstance(annotation, type) else str


def _flag(name: str, annotation: object) -> str:
    """The option's name; a switch can also be turned off, so that a command can spell out every setting."""
    key = name.replace("_", "-")
    return f"--{key}/--no-{key}" if annotation is bool else f"--{key}"


def _choices(annotation: object) -> str | None:
    """The values of an option that accepts a fixed set."""
    return "|".join(map(str, get_args(annotation))) if get_origin(annotation) is Literal else None


def _help(description: str, default: object) -> str:
    # The text of a switch says what turning it on does.
    if default in ("", None) or isinstance(default, bool):
        return description
    return f"{description} {shown_default(default)}"


def shown_default(default: object) -> str:
    """A default as the help shows it."""
    return f"[dim]\\[default: {default}][/dim]"

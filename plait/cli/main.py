"""The ``plait`` command: its verbs, and what every verb does with errors.

Exit codes: 0 done; 2 usage or configuration; 3 a peer's bytes or a data file; 1 anything else, Ctrl-C included.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from plait import __version__
from plait.cli.options import command_of, spelled
from plait.cli.verbs import VERBS, short_help, whole_help
from plait.errors import Interrupted, PlaitError, did_you_mean, machine_fault
from plait.feature import at, feature_with, features
from plait.text import escaped

# Defaults that the user's environment overrides. No tool phones home because plait started it.
_ENVIRONMENT = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # No Python that plait starts looks for modules in the current directory.
    "PYTHONSAFEPATH": "1",
    # gRPC's core logs every failed handshake to stderr; plait says once, in words, what is wrong.
    "GRPC_VERBOSITY": "NONE",
}

# Idle threads spin for some microseconds, about as long as it takes to wake one, then sleep. With OpenMP's default they
# spin on and keep the threads they wait for off the processor as soon as anything else runs: small matrices then take a
# hundred times as long. GNU's OpenMP reads its own variable, others the policy.
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}

# numpy decomposes thin matrices here, for which OpenBLAS is several times faster with one thread than with two. Outside
# x86, torch may also use OpenBLAS.
_NUMPY = {"OPENBLAS_NUM_THREADS": "1"} if platform.machine() in ("x86_64", "AMD64") else {}

_VERBS_OF_OTHERS = {
    **dict.fromkeys(("train", "run", "fit", "start"), "simulate"), "generate": "chat",
}  # fmt: skip

# New objects per run of the garbage collector: with Python's 700 it takes a fifth of the time of importing the
# libraries.
_COLLECT_EVERY = 50_000


class Verbs(TyperGroup):
    """The core's verbs, and those of features, which are looked for only where the core has none of that name."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if (command := super().get_command(ctx, cmd_name)) is not None or cmd_name.startswith("-"):
            return command
        if cmd_name in VERBS:
            verb = VERBS[cmd_name]
            return command_of(cmd_name, at(verb.place), forwards=verb.forwards)
        found = feature_with("verbs", cmd_name, all_installed=True)
        return command_of(cmd_name, at(found.verbs[cmd_name])) if found else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that a command line begins with; the error for an unknown verb names the nearest."""
        try:
            name, command, rest = super().resolve_command(ctx, args)
        except click.UsageError:
            if args[0].startswith("-"):
                raise
            meant = _VERBS_OF_OTHERS.get(args[0], args[0])
            ctx.fail(f"there is no verb '{args[0]}'{did_you_mean(meant, self.list_commands(ctx))}")
        known = {option for each in command.params for option in each.opts} if command else set[str]()
        for word in (word for word in rest if word.startswith("--") and word not in known):
            # What a feature makes of the verb with an option of its own.
            if found := feature_with("verbs", form := f"{name} {word}", all_installed=True):
                rest.remove(word)
                other = command_of(form, at(found.verbs[form]))
                lost = known - {option for each in other.params for option in each.opts}
                if given := next((option for option in rest if option.partition("=")[0] in lost), ""):
                    ctx.fail(f"plait {form} has no option {given}, which plait {name} has without {word}")
                return form, other, rest
        return name, command, rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        del ctx
        of_features = (verb for feature in features(all_installed=True) for verb in feature.verbs)
        return [*VERBS, *of_features]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Ten verbs, and the names of the others."""
        del ctx
        formatter.write(short_help())


app = typer.Typer(
    name="plait",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # `Verbs` names the nearest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("help")
def _help(
    verb: Annotated[str, typer.Argument(help="Topic; leave it out to list the verbs.")] = "",
    every: Annotated[bool, typer.Option("--all", help="List every verb with its purpose.")] = False,
) -> None:
    """Tell about plait's verbs, or one of them.

    Example: plait help --all
    """
    if verb:
        app(args=[verb, "--help"])
    typer.echo(whole_help() if every else short_help(), nl=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plait {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Entry point of the ``plait`` command."""
    waiting = {} if any(key in os.environ for key in _WAITING) else _WAITING
    for key, value in {**_ENVIRONMENT, **_NUMPY, **waiting}.items():
        os.environ.setdefault(key, value)
    gc.set_threshold(_COLLECT_EVERY)
    try:
        app(args=spelled(sys.argv[1:]))
    except Interrupted as stopped:
        _complain(str(stopped))
        sys.exit(stopped.exit_code)
    except PlaitError as error:
        _complain(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of the pipe has gone (`plait report RUN | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        fault = machine_fault(error)
        if fault is None and not isinstance(error, OSError):
            raise
        # For example a path that no system accepts; code that reads and writes files raises plait's own errors.
        _complain(f"error: {fault or error}")
        sys.exit(1)


def _complain(text: str) -> None:
    """Print an error; a path or a name in it may hold escape sequences."""
    sys.stderr.write(escaped(text, keep="\n") + "\n")


if __name__ == "__main__":
    main()

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
from plait.cli.bench import FORWARDED, bench
from plait.cli.cancel import cancel
from plait.cli.check_plugin import check_plugin
from plait.cli.client import client
from plait.cli.doctor import doctor
from plait.cli.estimate import estimate
from plait.cli.evaluate import evaluate
from plait.cli.fetch import fetch
from plait.cli.flowertune import flowertune
from plait.cli.methods import methods
from plait.cli.options import RunCommand, command_of, spelled
from plait.cli.privacy import privacy
from plait.cli.provision import provision
from plait.cli.region import region
from plait.cli.report import report
from plait.cli.resume import resume
from plait.cli.rules import rules
from plait.cli.runs import runs
from plait.cli.server import server
from plait.cli.simulate import simulate
from plait.cli.status import status
from plait.cli.submit import submit
from plait.cli.verify import verify
from plait.errors import Interrupted, PlaitError, machine_fault
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

# New objects per run of the garbage collector: with Python's 700 it takes a fifth of the time of importing the
# libraries.
_COLLECT_EVERY = 50_000


class Verbs(TyperGroup):
    """The core's verbs, and those of features, which are looked for only where the core has none of that name."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if (command := super().get_command(ctx, cmd_name)) is None and not cmd_name.startswith("-"):
            found = feature_with("verbs", cmd_name, all_installed=True)
            command = command_of(cmd_name, at(found.verbs[cmd_name])) if found else None
        return command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, for help."""
        of_features = (verb for feature in features(all_installed=True) for verb in feature.verbs)
        return [*super().list_commands(ctx), *of_features]


app = typer.Typer(
    name="plait",
    cls=Verbs,
    help="Federated fine-tuning of language models by low-rank adapters: clients keep their data and send deltas.",
    epilog="Exit codes: 0 done, 2 usage or configuration, 3 a peer's bytes or a data file, 1 anything else.",
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # click does already
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=RunCommand)(simulate)
app.command()(resume)
app.command()(report)
app.command(cls=RunCommand)(estimate)
app.command()(methods)
app.command()(rules)
app.command(name="check-plugin")(check_plugin)
app.command(name="eval")(evaluate)
app.command()(flowertune)
app.command()(verify)
app.command()(privacy)
app.command()(doctor)
app.command()(provision)
app.command(cls=RunCommand)(server)
app.command()(client)
app.command()(region)
app.command()(status)
app.command()(submit)
app.command()(runs)
app.command()(cancel)
app.command()(fetch)
app.command(context_settings=FORWARDED)(bench)


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

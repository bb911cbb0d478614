"""The command line of ``plait``: finding a verb, and help."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

from plait import __version__
from plait.cli.options import command_of, spelled
from plait.cli.verbs import FORMS, VERBS, short_help, whole_help
from plait.errors import did_you_mean

_VERBS_OF_OTHERS = {
    **dict.fromkeys(("train", "run", "fit", "start"), "simulate"), "generate": "chat",
}  # fmt: skip


_HELP = ("-h", "--help")


class Verbs(TyperGroup):
    """The verbs, each of which is imported when it is called."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a verb."""
        if (command := super().get_command(ctx, cmd_name)) is not None or cmd_name.startswith("-"):
            return command
        verb = VERBS.get(cmd_name) or FORMS.get(cmd_name)
        return command_of(cmd_name, verb.load(), forwards=verb.forwards) if verb else None

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
        for word in (word.partition("=")[0] for word in rest if word.startswith("--")):
            if word not in known and (form := f"{name} {word}") in FORMS:
                other = command_of(form, FORMS[form].load())
                taken = {option for each in other.params for option in each.opts}
                if word not in taken or any(each in rest for each in _HELP):
                    rest = [each for each in rest if each.partition("=")[0] != word]
                lost = known - taken
                if given := next((option for option in rest if option.partition("=")[0] in lost), ""):
                    ctx.fail(f"plait {form} has no option {given}, which plait {name} has without {word}")
                return form, other, rest
        return name, command, rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs."""
        del ctx
        return [*VERBS, *FORMS]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs of most users, and the names of the others."""
        del ctx
        formatter.write(short_help())


app = typer.Typer(
    name="plait",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    suggest_commands=False,  # `Verbs` names the nearest
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": [*_HELP]},
)


@app.command("help")
def _help(
    verb: Annotated[str, typer.Argument(help="Topic; leave it out to list the verbs.")] = "",
    every: Annotated[bool, typer.Option("--all", help="List every verb with its purpose.")] = False,
) -> None:
    """Show plait's verbs, or the help of one.

    Example: plait help --all
    """
    if verb:
        app(args=[verb, "--help"])
    typer.echo(whole_help() if every else short_help(), nl=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"plait {__version__}{_commit()}")
        raise typer.Exit


def _commit() -> str:
    """The commit of a checkout, with a plus if its files were changed since; empty for an installation."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    asked = ["git", "-C", str(root), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        said = subprocess.run(asked, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({said})"


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str]) -> None:
    """Run a command line."""
    app(args=spelled(arguments))

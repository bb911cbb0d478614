"""Which trackers follow a run."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, cast

from pydantic import BeforeValidator

from plait.errors import ConfigError
from plait.plugins import Kind, reference
from plait.settings.table import Table


def _named(given: object) -> object:
    """Trackers that a program gave, as the command line has them."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        given = ",".join(map(_name_of, cast("Sequence[object]", given)))
    return "none" if given == "" else given


def _name_of(tracker: object) -> str:
    """The name of a tracker, which runs in a process of its own."""
    if isinstance(tracker, str):
        return tracker
    name = reference(Kind.TRACKER, tracker)
    if name.startswith("__main__:") or "<" in name:
        raise ConfigError(
            f"tracker '{name}' is part of this program or notebook, expected a class in a module of its own: its "
            "process imports it from there"
        )
    return name


class Trackers(Table):
    """The trackers of a run."""

    table: ClassVar[str] = "trackers"
    heading: ClassVar[str] = "Trackers"

    report_to: Annotated[str, BeforeValidator(_named)] = "none"
    """trackers that follow the run, separated by commas: tensorboard, wandb, mlflow, trackio, or MODULE:CLASS of your
    own"""

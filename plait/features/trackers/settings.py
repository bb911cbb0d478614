"""Which trackers follow a run."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, cast

from pydantic import BeforeValidator

from plait.plugins import Kind, reference
from plait.settings.table import Table


def _named(given: object) -> object:
    """Trackers that a program gave, as the command line has them."""
    if isinstance(given, Sequence) and not isinstance(given, str):
        each = cast("Sequence[object]", given)
        given = ",".join(one if isinstance(one, str) else reference(Kind.TRACKER, one) for one in each)
    return "none" if given == "" else given


class Trackers(Table):
    """The trackers of a run."""

    table: ClassVar[str] = "trackers"
    heading: ClassVar[str] = "Trackers"

    report_to: Annotated[str, BeforeValidator(_named)] = "none"
    """trackers that follow the run, separated by commas: tensorboard, wandb, mlflow, trackio, or MODULE:CLASS of your
    own"""

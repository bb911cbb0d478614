"""What features refuse before a run begins, do alongside it, and do once it has finished."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from plait.config import RunConfig
from plait.known_features import features
from plait.places import at

if TYPE_CHECKING:
    from plait.rounds.run_directory import RunDirectory
    from plait.run import Run
    from plait.simulation.partitioned_data import PartitionedData


def check_features(settings: RunConfig, *, simulates: bool) -> None:
    """Refuse what the features of a run cannot do here.

    Args:
        simulates: whether its clients are simulated.

    Raises:
        ConfigError: with the reason.
    """
    for feature in settings.wanted:
        if feature.check:
            at(feature.check)(settings, simulates=simulates)


@contextmanager
def beside(settings: RunConfig, run: Path, *, quiet: bool) -> Generator[None]:
    """The features that a run asks for work beside it while the block runs.

    Args:
        quiet: whether they show nothing.
    """
    with ExitStack() as stack:
        for feature in settings.wanted:
            if feature.beside:
                stack.enter_context(at(feature.beside)(settings, run, quiet))
        yield


def end(run: Run, data: PartitionedData, directory: RunDirectory, *, quiet: bool) -> None:
    """What features do with a finished simulated run, before its report is written.

    Args:
        quiet: whether they show nothing; then only the features do something that the run asks for.
    """
    for feature in run.config.wanted if quiet else features():
        if feature.ending:
            at(feature.ending)(run, data, directory, quiet=quiet)

"""What features do beside a run while it goes on, and what they refuse before it begins."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from plait.config import RunConfig
from plait.feature import at


def check_features(settings: RunConfig) -> None:
    """Refuse what the features of a run cannot do here.

    Raises:
        ConfigError: with the reason.
    """
    for feature in settings.wanted:
        if feature.check:
            at(feature.check)(settings)


@contextmanager
def beside(settings: RunConfig, run: Path, *, quiet: bool) -> Generator[None]:
    """The features that a run asks for work beside it while the block runs.

    Args:
        settings: of the run.
        run: its directory; need not exist yet.
        quiet: whether they show nothing.
    """
    with ExitStack() as stack:
        for feature in settings.wanted:
            if feature.beside:
                stack.enter_context(at(feature.beside)(settings, run, quiet))
        yield

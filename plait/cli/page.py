"""The live page of a command that runs a federation, if a feature here has one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from plait.errors import ConfigError
from plait.known_features import features
from plait.places import at


def page_beside(
    place: Path, listen: str, *, status_json: Callable[[], str] | None = None
) -> AbstractContextManager[str]:
    """Serve the page as long as the block runs.

    Args:
        listen: address and port; empty for no page.
        status_json: gives what `plait status --json` prints; None where no server is.

    Raises:
        ConfigError: nothing here has a page, or the address is none for it.
        MachineError: the address is in use.
    """
    return _page()[1](place, listen, status_json=status_json) if listen else nullcontext("")


def check_page(listen: str) -> None:
    """Refuse an address for a page before anything has begun.

    Raises:
        ConfigError: as for `page_beside`.
    """
    if listen:
        _page()[0](listen, what="--page")


def _page() -> tuple[Callable[..., object], Callable[..., Any]]:
    for feature in features():
        if feature.live_page:
            return at(feature.live_page)
    raise ConfigError("--page is given, but this installation has no live page")

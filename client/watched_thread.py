"""A thread whose errors do not go unnoticed: an unexpected error in it ends the node, with one line."""

from __future__ import annotations

import threading
from collections.abc import Callable

from client.events import Event, Failed
from client.wording import failure
from plait.errors import MachineError


def watched_thread(work: Callable[[], None], *, name: str, tell: Callable[[Event], None]) -> threading.Thread:
    """A thread, not yet started."""

    def watched() -> None:
        try:
            work()
        except Exception as error:
            tell(Failed(MachineError(f"the node's {name} failed unexpectedly: {failure(error)}; please report it")))

    return threading.Thread(target=watched, name=name, daemon=True)

"""What verbs that serve have in common: their options, their log, and how signals stop them."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from plait.errors import Interrupted, MachineError

_LOG_BYTES = 16 << 20

Listen = Annotated[str, typer.Option("--listen", help="Address and port to serve on.")]
Kit = Annotated[Path | None, typer.Option("--kit", help="The server's kit, from `plait provision`.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Serve without TLS and keys; loopback addresses only.")]
Metrics = Annotated[str, typer.Option("--metrics", help="Address of the Prometheus page, such as 127.0.0.1:9441.")]
GraceS = Annotated[
    float, typer.Option("--grace-s", help="Seconds a client may be disconnected before its task is given up.")
]


def log_to(path: Path) -> None:
    """Log every event of the server to a file of bounded size, and warnings to stderr as well.

    Raises:
        MachineError: the file cannot be written.
    """
    from logging.handlers import RotatingFileHandler

    logger = logging.getLogger("plait.server")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        file = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="ascii", delay=False)
    except OSError as error:
        raise MachineError(f"cannot write '{path}': {error.strerror or error}") from error
    screen = logging.StreamHandler()
    screen.setLevel(logging.WARNING)
    for handler in (file, screen):
        handler.setFormatter(
            logging.Formatter("time=%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        logger.addHandler(handler)


def stop_on_signals(how: str) -> None:
    """Have SIGINT and SIGTERM raise `Interrupted`, which says how to continue."""

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise Interrupted(f"stopped; everything received so far is saved; continue with: {how}")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

"""What verbs that serve share (options, log, signals), and the live page: ``plait report --live``."""

import contextlib
import logging
import signal
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from plait.cli.output import run_or_newest
from plait.errors import RunInterrupted
from plait.page.beside import page_address, page_token, shown_address
from plait.report.terminal import say
from plait.system.files import failures_to

_LOG_BYTES = 16 << 20

Listen = Annotated[str, typer.Option("--listen", help="Address and port to serve on.")]
Kit = Annotated[Path | None, typer.Option("--kit", help="The server's kit, from `plait provision`.")]
Insecure = Annotated[bool, typer.Option("--insecure", help="Serve without TLS and keys; loopback addresses only.")]
Metrics = Annotated[str, typer.Option("--metrics", help="Address of the Prometheus page, such as 127.0.0.1:9441.")]
GraceS = Annotated[
    float, typer.Option("--grace-s", min=0, help="Seconds a client may be disconnected before its task is given up.")
]


def log_to(path: Path) -> None:
    """Log every event of the server to a file of bounded size, and warnings to stderr as well."""
    logger = logging.getLogger("plait.server")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    with failures_to(f"write '{path}'"):
        path.touch(mode=0o600)
        file = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=1, encoding="ascii", delay=False)
    file.rotator = _begin_anew
    screen = _Screen(logging.WARNING)
    for handler in (file, screen):
        handler.setFormatter(
            logging.Formatter("time=%(asctime)s level=%(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z")
        )
        logger.addHandler(handler)


class _Screen(logging.Handler):
    """Standard error as it is now: above a progress bar while there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        # A terminal that was closed must not end what logs; the file has the line.
        with contextlib.suppress(OSError, ValueError):
            say(self.format(record), quiet=False)


def _begin_anew(full: str, kept: str) -> None:
    Path(full).replace(kept)
    Path(full).touch(mode=0o600)


def stop_on_signals(how: str) -> None:
    """Have SIGINT and SIGTERM raise `RunInterrupted`, which states how to continue."""

    def stop(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise RunInterrupted(f"stopped; everything received so far is saved; continue with: {how}")

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def watch(
    named: Annotated[
        list[Path] | None,
        typer.Argument(
            help="A run, and perhaps one to compare it with; by default the newest in runs/.", metavar="[RUN [OTHER]]"
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option(help="Address and port of the page, of this machine alone.")
    ] = "127.0.0.1:9443",
) -> None:
    """Show a run on a live page in the browser: clients, losses, bytes, privacy; a second one side by side.

    The page reads the ledger and changes nothing. Open the printed address, whose token lets you in; from another
    machine, through an SSH tunnel.

    Example: plait report runs/first --live
    """
    from plait.page.app import Page, run_shown, serve  # a web server, which other verbs need not

    runs = [run_shown(place) for place in named or [run_or_newest(None)]]
    address, token = page_address(listen, what="--listen"), page_token()
    page = Page(runs, token=token)
    with address.bind() as listener:
        listener.listen()
        say(f"showing {', '.join(map(str, runs))} on {shown_address(listener, token)}", quiet=False)
        serve(page, listener)
    say("stopped", quiet=False)

"""The live page beside a run, in a process of its own, so that watching never delays the run.

The process is `plait.page.app`. A run without a page loads none of what serves one.
"""

import contextlib
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from plait.errors import ConfigError, MachineError
from plait.report.terminal import say
from plait.system.address import Address
from plait.system.child import Sidecar

QUESTION = b"status"
"""What the page's process sends to have the status."""
TOKEN_VARIABLE = "PLAIT_PAGE_TOKEN"  # noqa: S105 (the name of an environment variable)
_TOKEN_BYTES = 32
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")
_PREDECESSOR_S = 5.0
_END_S = 5.0


@contextlib.contextmanager
def page_beside(place: Path, listen: str, *, status_json: Callable[[], str] | None = None) -> Generator[str]:
    """Serve the page as long as the block runs; gives its address with its token, which is also printed on stderr.

    Args:
        listen: address and port; empty for no page.
        status_json: gives what `plait status --json` prints; None where no server is.
    """
    if not listen:
        yield ""
        return
    bound, token = page_address(listen, what="--page"), page_token()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(bound))
        listener.listen()
        shown = shown_address(listener, token)
        files, line = [listener.fileno()], -1
        if status_json is not None:
            here, there = Pipe()
            stack.enter_context(there)
            files.append(line := there.fileno())
            answer(here, status_json)
        arguments = (str(listener.fileno()), str(place.absolute()), str(line))
        # A command line can be read by other users.
        token_there = {TOKEN_VARIABLE: token}
        process = Sidecar("-m", "plait.page.app", *arguments, files=files, environment=token_there)
    try:
        say(f"live page on {shown}", quiet=False)
        yield shown
    finally:
        process.close_stdin()
        process.kill(after_s=_END_S)
        say(f"the page is closed; `plait report {place} --live` shows it again", quiet=False)


def _bound(address: Address) -> socket.socket:
    """As `Address.bind`; the page of a server that was killed needs a moment to end."""
    end = time.monotonic() + _PREDECESSOR_S
    while True:
        try:
            return address.bind()
        except MachineError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.1)


def page_address(text: str, *, what: str) -> Address:
    """An address for the page; ConfigError if other machines can reach it."""
    address = Address.parse(text, what=what, listening=True)
    if not address.is_loopback:
        raise ConfigError(
            f"{what} is {text}, but the page serves only this machine: use {what} 127.0.0.1:{address.port} here, and "
            f"on the machine that watches `ssh -N -L {address.port}:127.0.0.1:{address.port} {socket.gethostname()}`; "
            "or let a proxy of your own ask for a login and pass on to it (docs/guides/watching.md)"
        )
    return address


def shown_address(listener: socket.socket, token: str) -> str:
    """What to open in a browser."""
    return f"http://{Address(*listener.getsockname()[:2])}/?token={token}"


def page_token() -> str:
    """The token of the environment variable `TOKEN_VARIABLE`; without one a new token of 256 random bits."""
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and not _TOKEN.fullmatch(given):
        raise ConfigError(f"{TOKEN_VARIABLE} is not a token: give 32 to 128 letters, digits, '-' and '_'")
    return given or secrets.token_urlsafe(_TOKEN_BYTES)


def answer(connection: Connection, status_json: Callable[[], str]) -> None:
    """Answer the page in a thread of its own, until the page's end is closed."""

    def answer_all() -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            while True:
                connection.recv_bytes(len(QUESTION))
                connection.send_bytes(status_json().encode())

    threading.Thread(target=answer_all, name="plait-page", daemon=True).start()

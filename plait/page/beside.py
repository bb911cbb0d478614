"""The live page beside a run, in a process of its own, so that whoever watches never delays the run.

``python -m plait.page.beside FILE PLACE run|folder`` serves on a listening socket, which it inherits as file FILE. It
ends when its standard input does, that is when the command is over or gone, however that ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

from plait.address import Address
from plait.errors import ConfigError
from plait.progress import say


@contextlib.contextmanager
def page_beside(place: Path, listen: str, *, folder: bool = False, quiet: bool = False) -> Generator[None]:
    """Serve the page as long as the block runs.

    Args:
        place: the run's directory, which need not be there yet.
        listen: address and port; empty for no page.
        folder: whether `place` holds many runs, or will.
        quiet: whether to keep the page's address to oneself.

    Raises:
        ConfigError: the address is none of this machine alone.
        MachineError: it is in use.
    """
    if not listen:
        yield
        return
    address = loopback_address(listen, what="--page")
    with address.bind() as listener:
        listener.listen()
        shown = Address(*listener.getsockname()[:2])
        command = [sys.executable, "-P", "-m", "plait.page.beside", str(listener.fileno()), str(place.absolute())]
        process = subprocess.Popen(
            [*command, "folder" if folder else "run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the run alone
        )
    say(f"live page on http://{shown}", quiet=quiet)
    try:
        yield
    finally:
        if process.stdin:
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        process.kill()
        process.wait()


def loopback_address(text: str, *, what: str) -> Address:
    """An address for the page.

    Raises:
        ConfigError: it is none, or others could reach it.
    """
    address = Address.parse(text, what=what, listening=True)
    if not address.is_loopback:
        raise ConfigError(f"{what} is {address}, expected an address of this machine alone, such as 127.0.0.1:9443")
    return address


def _end_with_the_command() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until standard input ends."""
    import socket

    from plait.hosts import AllowedHosts
    from plait.page.app import Page
    from plait.page.catalogue import Catalogue
    from plait.page.server import serve

    _, file, place, kind = sys.argv
    with socket.socket(fileno=int(file)) as listener:
        threading.Thread(target=_end_with_the_command, daemon=True).start()
        catalogue = Catalogue([Path(place)], expected=Path(place), folder=kind == "folder")
        serve(Page(catalogue, AllowedHosts.of(listener.getsockname()[0])), listener)


if __name__ == "__main__":
    main()

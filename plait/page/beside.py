"""The live page beside a run, in a process of its own, so that whoever watches never delays the run.

``python -m plait.page.beside FILE PLACE run|folder KIT LINE`` serves on a listening socket, which it inherits as file
FILE, and ends with the command (`plait.page.process`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from plait.address import Address
from plait.errors import ConfigError, MachineError
from plait.progress import say

if TYPE_CHECKING:
    from plait.hosts import AllowedHosts
    from plait.page.catalogue import Catalogue
    from plait.page.line import Desk, Line

_SECURE = "https://"
_PREDECESSOR_S = 5.0


@contextlib.contextmanager
def page_beside(
    place: Path,
    listen: str,
    *,
    folder: bool = False,
    quiet: bool = False,
    kit: Path | None = None,
    desk: Desk | None = None,
) -> Generator[None]:
    """Serve the page as long as the block runs.

    Args:
        place: the run's directory, which need not be there yet.
        listen: address and port; empty for no page.
        folder: whether `place` holds many runs, or will.
        quiet: whether to keep the page's address to oneself.
        kit: the server's, for a page with a door.
        desk: answers what the page asks of the server.

    Raises:
        ConfigError: other machines can reach the address and there is no kit, or the kit is not valid.
        MachineError: it is in use.
    """
    if not listen:
        yield
        return
    address, has_door = page_address(listen, what="--page", kit=kit)
    from plait.page.process import process_beside

    with contextlib.ExitStack() as stack:
        with _bound(address) as listener:
            listener.listen()
            address = Address(*listener.getsockname()[:2])
            stack.enter_context(
                process_beside(
                    "plait.page.beside",
                    str(listener.fileno()),
                    str(place.absolute()),
                    "folder" if folder else "run",
                    str(kit.absolute()) if kit and has_door else "",
                    desk=desk,
                    inherited=[listener.fileno()],
                )
            )
        say(f"live page on {shown_address(address, has_door=has_door)}", quiet=quiet)
        yield


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


def page_address(text: str, *, what: str, kit: Path | None) -> tuple[Address, bool]:
    """An address for the page, and whether it has a door: beyond loopback, and where ``https://`` asks for it.

    Args:
        text: as typed.
        what: its name in the error.
        kit: the server's, which the door needs.

    Raises:
        ConfigError: it is no address, there is no kit for its door, or the kit is not valid.
    """
    address = Address.parse(text.removeprefix(_SECURE), what=what, listening=True)
    has_door = text.startswith(_SECURE) or not address.is_loopback
    if not has_door:
        return address, False
    if kit is None:
        raise ConfigError(
            f"{what} is {text}, expected an address of this machine alone, such as 127.0.0.1:9443, or with it a "
            "server's --kit: the page then asks who visits"
        )
    from plait.trust import Register, ServerKit

    ServerKit.load(kit)
    Register.load(kit)
    return address, True


def shown_address(address: Address, *, has_door: bool) -> str:
    """What to type into a browser."""
    return f"{_SECURE if has_door else 'http://'}{address}"


def serve_page(
    catalogue: Catalogue,
    listener: socket.socket,
    hosts: AllowedHosts,
    *,
    kit: Path | None,
    line: Line | None = None,
    sessions: Path | None = None,
) -> None:
    """Serve the page in this process, until a signal ends it.

    Args:
        catalogue: the runs to show.
        listener: bound and listening.
        hosts: names of this server besides those of the kit.
        kit: the server's, for a page with a door; None for none.
        line: to the server beside it; None for none.
        sessions: file that keeps the door's sessions; None for none.

    Raises:
        PlaitError: the kit cannot be read.
    """
    from plait.page.app import Page
    from plait.page.server import serve
    from plait.page.tls import tls_of

    if kit is None:
        serve(Page(catalogue, hosts, line=line), listener)
        return
    from plait.page.door import Door
    from plait.trust import Register, ServerKit

    hosts = replace(hosts, names=hosts.names | set(ServerKit.load(kit).names))
    door = Door(Register.load(kit), sessions=sessions)
    serve(Page(catalogue, hosts, door=door, line=line), listener, tls=tls_of(kit))


def main() -> None:
    """Serve until standard input ends."""
    from plait.hosts import AllowedHosts
    from plait.page.catalogue import Catalogue
    from plait.page.passes import SESSIONS_FILE
    from plait.page.process import line_of, when_over

    _, file, place, kind, kit, line = sys.argv
    with socket.socket(fileno=int(file)) as listener:
        when_over(lambda: os.kill(os.getpid(), signal.SIGTERM))
        catalogue = Catalogue([Path(place)], expected=Path(place), folder=kind == "folder")
        hosts = AllowedHosts.of(listener.getsockname()[0])
        serve_page(
            catalogue,
            listener,
            hosts,
            kit=Path(kit) if kit else None,
            line=line_of(line),
            sessions=Path(place) / SESSIONS_FILE,
        )


if __name__ == "__main__":
    main()

"""A node that answers every task with the task's own body: what is left is the way there and back.

    python -m client.echo SERVER NAME STATE [KIT]

For `plait bench transport`, and for trying out a network before a base is on the machine. All but the app is the
resident node's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from client.journal import Journal, Style
from client.node import Node
from client.settings import NodeSettings, check_settings
from client.workplace import AppWorkplace, Capacity, Run, Workplace
from plait.errors import PlaitError
from plait.flower.apps import HostedApp
from plait.simulation.echo import echo_app


def run_echo(settings: NodeSettings) -> None:
    """Be such a node until the server's run is over.

    Raises:
        PlaitError: as `Node.run`.
    """

    def open_workplace(run: Run) -> Workplace:
        capacity = Capacity(run.base_fingerprint, (), 0, "none")
        app = HostedApp(
            echo_app(),
            run_id=run.run_id,
            node_id=run.node_id,
            run_config=dict(run.config),
            node_config=settings.node_config,
        )
        return AppWorkplace(app, capacity=capacity)

    Node(settings, open_workplace, Journal(Style.QUIET, sys.stderr)).run()


def main(server: str, name: str, state: str, kit: str = "") -> None:
    """Entry point; all arguments as typed."""
    settings = check_settings(
        server=server, data="none", kit=Path(kit) if kit else None, name=name, insecure=not kit, state=Path(state)
    )
    try:
        run_echo(settings)
    except PlaitError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A node that answers every task with the task's own body, which leaves only the cost of transport.

    python -m simulations.bench.echo_node SERVER NAME STATE [KIT]

For `plait bench transport`, and for trying out a network before a base is on the machine. All but what is done
with a task is the resident node's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from client.node import Node
from client.settings import NodeSettings, check_settings
from client.task import ClientTask, Journal, OfferedRun, Style, TaskAnswer, TaskRunner
from plait.errors import PlaitError
from plait.v1 import federation_pb2 as pb


def echo(run: OfferedRun) -> TaskRunner:
    """Answers with the body that it was sent, or with the head where there is none."""

    def answer(task: ClientTask, body: bytes) -> TaskAnswer:
        return TaskAnswer(pb.CONTENT_PLAIT, body or task.head)

    return TaskRunner(pb.Ready(base_fingerprint=run.base_fingerprint, device="none"), answer)


def run_echo(settings: NodeSettings) -> None:
    """Be such a node until the server's run is over.

    Raises:
        PlaitError: as `Node.run`.
    """
    Node(settings, echo, Journal(Style.QUIET, sys.stderr)).run()


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

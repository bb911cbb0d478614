"""The ServerApp and the ClientApp: plait's round loop and participant behind Flower's interface.

Flower's engines start them by name from `server/app.py` and `client/app.py`; plait's own server and node make theirs
here too, for a run that is already resolved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from plait.abandon import Abandoned
from plait.config import Scalar
from plait.errors import DiskFullError, PeerError, PlaitError
from plait.flower.blob import from_message, to_content
from plait.flower.channel import MASK_TYPE, GridChannel
from plait.flower.message import instruction
from plait.flower.ray_workers import outlast_lost_nodes
from plait.rounds.channel import Channel
from plait.rounds.stop import StopRequest

_FAILED = 1


class Answering(Protocol):
    """Answers tasks; in a run, a `plait.rounds.participant.Participant`."""

    def answer(self, task_bytes: bytes) -> bytes:
        """Do one task."""
        ...


def server_app(
    federation: Callable[[Channel, Mapping[str, Scalar], str | None], object], stop: StopRequest | None = None
) -> ServerApp:
    """A ServerApp that runs a federation over Flower's grid.

    Args:
        federation: given the run configuration, runs it to its end. On a network its data are left out and given
            beside it; elsewhere None is.
        stop: stops the run while it waits for its clients.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, named = context.run_config, None
        # By its name: its place has moved within Flower, and that it is there says that Ray is.
        if type(grid).__name__ == "InMemoryGrid":
            outlast_lost_nodes()
        else:
            # The nodes of a network bring their own, or take a part of these; the setting's default names some.
            settings, named = {**settings, "data": ""}, str(settings.get("data", ""))
        federation(GridChannel(grid, stop), settings, named)

    return app


def client_app(participant: Callable[[Context], Answering]) -> ClientApp:
    """A ClientApp that passes the bytes of every message to a participant, and returns its answer.

    Args:
        participant: the participant of a context.
    """
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        try:
            reply = participant(context).answer(from_message(message))
        except (Abandoned, DiskFullError):
            raise
        except PlaitError as error:
            # Flower would send the class's name with it, and print a traceback here.
            return Message(Error(_FAILED, str(error)), reply_to=message)
        return Message(to_content(reply), reply_to=message)

    for register in (app.query, app.train, app.evaluate):
        register()(answer)
    app.query(MASK_TYPE.partition(".")[2])(answer)
    return app


class HostedApp:
    """A ClientApp in this process, with a context that lives as long as this object.

    Args:
        app: Flower's ClientApp.
        run_id: Flower's id of the run.
        node_id: Flower's id of the node.
        run_config: the run configuration for the app.
    """

    def __init__(
        self,
        app: Callable[[Message, Context], Message],
        *,
        run_id: int,
        node_id: int,
        run_config: dict[str, Scalar],
    ) -> None:
        self._app = app
        self._context = Context(
            run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config=run_config
        )

    def answer(self, *, task_id: str, message_type: str, group_id: str, head: bytes, body: bytes) -> bytes:
        """Do one task.

        Args:
            task_id: its name.
            message_type: Flower's.
            group_id: Flower's; the round.
            head: the beginning of its bytes.
            body: the rest of them.

        Returns:
            The answer's bytes.

        Raises:
            PeerError: the app answered with an error: its reason; or without plait's bytes.
            Abandoned: nobody waits for it any more.
        """
        context = self._context
        message = instruction(
            to_content(head, body),
            message_type,
            dst_node_id=context.node_id,
            group_id=group_id,
            message_id=task_id,
            run_id=context.run_id,
        )
        reply = self._app(message, context)
        if reply.has_error():
            raise PeerError(reply.error.reason or "the app gave no reason")
        return from_message(reply)

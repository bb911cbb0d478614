"""The ServerApp and the ClientApp, which Flower's engines start by name from `server/app.py` and `client/app.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from plait.config import Scalar
from plait.errors import Abandoned, DiskFullError, PlaitError
from plait.flower.channel import GridChannel, from_message, to_content
from plait.rounds.channel import Answering, Channel, Purpose, StopRequest
from plait.transport.protocol import MESSAGE_TYPES

_FAILED = 1


def server_app(
    federation: Callable[[Channel, Mapping[str, Scalar], str | None], object], stop: StopRequest | None = None
) -> ServerApp:
    """A ServerApp that runs a federation, given the run configuration, over Flower's grid.

    On a network its data are left out of the configuration and given beside it; elsewhere None is.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings, named = context.run_config, None
        # By its name: its place has moved within Flower, and importing it needs Ray.
        if type(grid).__name__ != "InMemoryGrid":
            # The nodes of a network bring their own, or take a part of these; the setting's default names some.
            settings, named = {**settings, "data": ""}, str(settings.get("data", ""))
        federation(GridChannel(grid, stop), settings, named)

    return app


def client_app(participant: Callable[[Context], Answering]) -> ClientApp:
    """A ClientApp that passes the bytes of every message to a participant, and returns its answer."""
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
    app.query(MESSAGE_TYPES[Purpose.MASK].partition(".")[2])(answer)
    return app

"""A ClientApp that answers every task with the task's own body: what is left is what a round itself costs."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from plait.flower.blob import parts_of, to_content
from plait.simulation.local_grid import FIRST_CLIENT_NODE, LocalGrid


def echo_app() -> ClientApp:
    """A ClientApp that answers with the body that it was sent, or with its head where there is none."""
    app = ClientApp()

    def echo(message: Message, context: Context) -> Message:
        del context
        head, body = parts_of(message.content) or (b"", b"")
        return Message(to_content(body or head), reply_to=message)

    for register in (app.query, app.train, app.evaluate):
        register()(echo)
    return app


def echo_grid(nodes: int) -> Grid:
    """So many of them in this process."""
    configs: dict[int, UserConfig] = {FIRST_CLIENT_NODE + index: {"partition-id": index} for index in range(nodes)}
    return LocalGrid(echo_app(), configs, run_config={}, run_id=1)

"""The Flower ClientApp: hands the bytes of every message to plait's participant and its answer back."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.identity import participant_of
from plait.simulation.blob import from_message, to_content

app = ClientApp()


@app.query()
def describe(message: Message, context: Context) -> Message:
    """Say who this client is and how much data it has."""
    return _answer(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this client's data and send the update."""
    return _answer(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Send the held-out loss on this client's data."""
    return _answer(message, context)


def _answer(message: Message, context: Context) -> Message:
    answer = participant_of(context).answer(from_message(message))
    return Message(to_content(answer), reply_to=message)

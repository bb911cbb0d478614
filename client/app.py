"""The Flower ClientApp: hands the bytes of every message to plait's participant and its answer back."""

from __future__ import annotations

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from client.identity import participant_of
from plait.abandon import Abandoned
from plait.errors import DiskFullError, PlaitError
from plait.flower.blob import from_message, to_content

_FAILED = 1

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
    try:
        answer = participant_of(context).answer(from_message(message))
    except (Abandoned, DiskFullError):
        # In a simulation the disk is the run's own.
        raise
    except PlaitError as error:
        # Flower would send the class's name with it, and print a traceback here.
        return Message(Error(_FAILED, str(error)), reply_to=message)
    return Message(to_content(answer), reply_to=message)

"""The Flower ClientApp, for Flower's engines: answers as the participant of a message's context."""

from __future__ import annotations

from flwr.app import Context

from client.contexts import ContextParticipants
from plait.flower.apps import Answering, client_app

_PARTICIPANTS = ContextParticipants()


def participant_of(context: Context) -> Answering:
    """The participant of a context.

    A function of the module, so that Ray carries its name to a worker with every message, and each keeps its base.
    """
    return _PARTICIPANTS(context)


app = client_app(participant_of)

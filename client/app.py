"""The Flower ClientApp, for Flower's engines: answers as the participant of a message's context.

Loads what participants need when the first task comes.
"""

from functools import cache
from typing import TYPE_CHECKING

from flwr.app import Context

from plait.flower.channel import client_app
from plait.rounds.channel import Answering

if TYPE_CHECKING:
    from client.contexts import ContextParticipants


def participant_of(context: Context) -> Answering:
    """The participant of a context.

    A function of the module, so that Ray carries its name to a worker with every message, and each keeps its base.
    """
    return _participants()(context)


@cache
def _participants() -> "ContextParticipants":
    from client.contexts import ContextParticipants  # brings torch along

    return ContextParticipants()


app = client_app(participant_of)

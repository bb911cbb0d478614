"""The Flower ClientApp, for Flower's engines: answers as the participant of a message's context."""

from __future__ import annotations

from client.contexts import ContextParticipants
from plait.flower.apps import client_app

app = client_app(ContextParticipants())

"""The Flower ClientApp: plait's participant, as the context of a message says who it is."""

from __future__ import annotations

from client.identity import participant_of
from plait.flower.apps import client_app

app = client_app(participant_of)

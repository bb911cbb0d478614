"""The Flower ServerApp: the federation described by the run configuration, over the grid from Flower."""

from __future__ import annotations

from collections.abc import Mapping

from plait.config import Scalar, config_from_table
from plait.federation import run_federation
from plait.flower.apps import server_app
from plait.plugins import admit
from plait.rounds.channel import Channel
from plait.run import resolve
from plait.settle import settle
from server.log import say_event


def run_described(channel: Channel, table: Mapping[str, Scalar]) -> None:
    """Run or continue the federation."""
    config = config_from_table(table, where="run configuration")
    admit(*config.plugins)
    run_federation(channel, resolve(settle(config)), on_event=say_event)


app = server_app(run_described)

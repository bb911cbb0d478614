"""Regions of a simulated run: all servers of its tree in one process, each with a directory of its own."""

from __future__ import annotations

import math
from dataclasses import replace

from plait.features.trees.region import Region
from plait.features.trees.regional import below, open_region
from plait.rounds.channel import Channel
from plait.rounds.local_channel import LocalChannel
from plait.rounds.stop import StopRequest
from plait.run import Run
from plait.simulation.simulation import Simulation


def channel(simulation: Simulation, stop: StopRequest | None) -> Channel:
    """A channel to the regions of a simulated run's server."""
    return _channel(simulation, simulation.run, 0, stop)


def _channel(simulation: Simulation, run: Run, first: int, stop: StopRequest | None, above: str = "") -> Channel:
    """A channel to the regions of a server, or to the clients of a lowest one, which begin with number `first`."""
    count, *lower = run.config.levels
    if not lower:
        return simulation.direct(first, count, stop)
    size, opened = math.prod(lower), dict[int, Region]()

    def region(index: int) -> Region:
        if index not in opened:
            name = f"{above or 'region'}-{index:0{len(str(count - 1))}}"
            lower_run = replace(run, settled=below(run.settled))
            to_clients = _channel(simulation, lower_run, first + index * size, stop, name)
            opened[index] = open_region(run, name, to_clients, simulation.directory.path / "regions" / name)
            simulation.opened.callback(opened[index].close)
        return opened[index]

    return LocalChannel(region, count, stop=stop)

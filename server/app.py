"""The Flower ServerApp: reads the run configuration and hands the grid to plait's round loop."""

from __future__ import annotations

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from plait.config import config_from_table
from plait.flower.channel import GridChannel
from plait.simulation.local_grid import LocalGrid
from server.run import run_federation

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run, or go on with, the federation that the run configuration describes."""
    config = config_from_table(context.run_config, where="run configuration")
    # In one process all nodes are there from the start, or never.
    run_federation(GridChannel(grid, open_ended=not isinstance(grid, LocalGrid)), config)

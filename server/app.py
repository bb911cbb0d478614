"""The Flower ServerApp: the federation described by the run configuration, over the grid from Flower."""

from collections.abc import Mapping
from pathlib import Path

from plait.config import Scalar, config_from_table
from plait.errors import ConfigError
from plait.federation import run_federation
from plait.flower.channel import server_app
from plait.plugins import admit
from plait.rounds.callbacks import heard
from plait.rounds.channel import Channel, StopRequest
from plait.rounds.run_directory import RunDirectory
from plait.run import resolve
from plait.settle import settle
from server.monitoring import log_run_event


def run_described(channel: Channel, table: Mapping[str, Scalar], superlink_data: str | None) -> None:
    """Run or continue the federation; `superlink_data` is a SuperLink's ``data``, None in Flower's simulation."""
    config = config_from_table(table, where="run configuration")
    if not config.out:
        raise ConfigError(
            "run configuration has no out, expected a directory of this machine, such as /srv/plait/first"
        )
    admit(*config.plugins)
    with heard(config.callbacks, RunDirectory(Path(config.out)), _STOP, log_run_event) as hear:
        run_federation(channel, resolve(settle(config)), superlink_data=superlink_data, on_event=hear, stop=_STOP)


# A process of Flower's runs one run.
_STOP = StopRequest()
app = server_app(run_described, _STOP)

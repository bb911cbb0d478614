"""A process that does the tasks of some clients of a simulated run (`plait.system.child`; `workers` is the other side).

{"config": {…}, "base": {…}, "parts": 2}, their data    a run, in place of the one before; the answer is {}
{"node": 3}, its task                                   the answer is {"silent": null}, and the client's
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from plait.adapters import BaseReference
from plait.config import config_from_table
from plait.plugins import admit
from plait.rounds.channel import LocalChannel, NoAnswer
from plait.run import resolve
from plait.settle import settle
from plait.simulation.loaded import Loaded
from plait.simulation.simulation import Simulation
from plait.simulation.workers import error_fields, shares_from_bytes
from plait.system.child import ParentProcess
from plait.training.bases import LocatedBase, quiet_libraries
from plait.training.device import take_share
from plait.wire.codec import DECODED


def main(parent: ParentProcess) -> None:
    """Do what the process that started this one asks until it ends."""
    with DECODED.kept():
        _work(parent)


def _work(parent: ParentProcess) -> None:
    loaded = Loaded()
    clients: LocalChannel | None = None
    while True:
        message = parent.receive()
        try:
            if clients is None or "config" in message.fields:
                clients = _opened(message.fields, message.parts[0], loaded)
                parent.send({})
                continue
            answer = clients.answer(int(str(message.fields["node"])), message.parts[0])
        except Exception as error:
            parent.send(error_fields(error))
            continue
        if isinstance(answer, NoAnswer):
            parent.send({"silent": answer.detail}, b"")
        else:
            parent.send({"silent": None}, answer)


def _opened(fields: Mapping[str, object], shares: bytes, loaded: Loaded) -> LocalChannel:
    """The clients of a run."""
    quiet_libraries()
    table = cast("dict[str, object]", fields["config"])
    config = config_from_table(table, where="the run's settings")
    admit(*config.plugins)
    base = cast("dict[str, str]", fields["base"])
    located = LocatedBase(Path(base["directory"]), BaseReference(base["name"], None, base["fingerprint"]))
    run = resolve(settle(config), located)
    simulation = Simulation(run, shares_from_bytes(shares), loaded)
    simulation.base.memory_limit_bytes = take_share(simulation.base.compute.device, int(str(fields["parts"])))
    return simulation.here()

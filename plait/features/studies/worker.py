"""A process that does runs of a sweep, one after the other (see `plait.child`).

{"settings": {…}, "path": "…"}    do this run; the answer is {"error": "…", "interrupted": false}, see `Outcome`
{"stop": true}                    stop the run in progress
"""

from __future__ import annotations

from pathlib import Path

from plait.child import Message, Parent
from plait.features.studies.cell import attempt
from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded


def main(parent: Parent) -> None:
    """Do what the process that started this one asks until it ends."""
    stop = StopRequest()

    def stopped(message: Message) -> bool:
        stop.asked = stop.asked or "stop" in message.said
        return "stop" in message.said

    parent.listen(stopped)
    loaded = Loaded()
    while True:
        task = parent.hear().said
        settings, path = task["settings"], Path(str(task["path"]))
        outcome = attempt(settings if isinstance(settings, dict) else {}, path, loaded, stop)
        if outcome.error:
            # What a failed run left in memory is not trusted.
            loaded = Loaded()
        parent.say({"error": outcome.error, "interrupted": outcome.interrupted})

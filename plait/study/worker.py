"""A process that does runs of a sweep: takes them as lines of JSON on stdin, answers with lines of JSON on stdout.

It ends when stdin does, so no run outlives the process that asked for it. What libraries print goes to stderr.

    {"settings": {…}, "path": "…"}    do this run; the answer is {"error": "…", "interrupted": false}, see `Outcome`
    {"stop": true}                    stop the run in progress
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from pathlib import Path

from plait.rounds.stop import StopRequest
from plait.simulation.loaded import Loaded
from plait.study.attempt import attempt


def main() -> None:
    """Do what stdin asks until it ends."""
    # The process that started this one decides what an interrupt means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    stop = StopRequest()
    asked: queue.Queue[dict[str, object]] = queue.Queue()
    threading.Thread(target=_listen, args=(asked, stop), daemon=True).start()
    loaded = Loaded()
    while True:
        task = asked.get()
        settings, path = task["settings"], Path(str(task["path"]))
        outcome = attempt(settings if isinstance(settings, dict) else {}, path, loaded, stop)
        if outcome.error:
            # What a failed run left in memory is not trusted.
            loaded = Loaded()
        answers.write(json.dumps({"error": outcome.error, "interrupted": outcome.interrupted}) + "\n")
        answers.flush()


def _listen(asked: queue.Queue[dict[str, object]], stop: StopRequest) -> None:
    for line in sys.stdin:
        task = json.loads(line)
        if task.get("stop"):
            stop.asked = True
        else:
            asked.put(task)
    os._exit(0)


if __name__ == "__main__":
    main()

"""``plait runs``: the queue and the past runs of a server that stays."""

from __future__ import annotations

from plait.cli.operating import JsonOutput, Kit, Server, calls_to
from plait.cli.output import print_json, print_tables


def runs(server: Server = "localhost:9440", kit: Kit = None, json_output: JsonOutput = False) -> None:
    """List the queued, running and past runs of a server that stays, and the labels of its clients.

    Example: plait runs --server fed.example.org:9440 --kit ivo
    """
    said = calls_to(server, kit).runs()
    if json_output:
        print_json(said)
        return
    from plait.report import queue_tables

    print_tables(queue_tables(said))

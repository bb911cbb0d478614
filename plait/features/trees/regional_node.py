"""A region over gRPC: a node of the server above it, and the server of its own clients, in one process.

The server above announces the run. Once the region's operator agrees to it, the region serves the same run to its
clients and passes tasks down and sums up (`Region`). Sets no signal handler and configures no logging: both are the
caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.api.serving import Serving, kit_of
from plait.apps import bind_apps
from plait.errors import DiskFullError, PlaitError, PolicyError
from plait.rounds import events
from plait.rounds.ledger import OnEvent
from plait.rounds.run_directory import RunDirectory
from plait.text import printable

if TYPE_CHECKING:
    from client.journal import Journal
    from client.node import Node
    from client.runner import Capacity, Run, TaskRunner
    from client.settings import NodeSettings
    from client.task import Answer, Task
    from plait.features.trees.region import Region
    from server.nodes_channel import NodesChannel


_MOST_NAMED = 16


@dataclass(frozen=True, eq=False)
class RegionRunner:
    """Does the tasks of one run by having the region's clients do them.

    Attributes:
        capacity: what the server above is told of it.
    """

    region: Region
    capacity: Capacity

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task."""
        from client.task import Answer, Kind

        try:
            data = self.region.answer(task.head + body)
        except DiskFullError as error:
            return Answer.failed(str(error))
        return Answer.of(Kind.PLAIT, data, failure=self.region.refusal)


class RegionalNode:
    """A region's process, from the first attempt to connect to the end of the run above.

    Args:
        settings: of the node that it is at the server above.
        serving: where and how it serves its clients; the run's number is that of the server above.
        out: its directory; every run has a folder of its own there.
        ask: asks the operator for consent; None if there is no terminal.
        on_event: called with every event of its ledgers.
    """

    def __init__(
        self,
        settings: NodeSettings,
        serving: Serving,
        out: Path,
        journal: Journal,
        *,
        ask: Callable[[], bool] | None = None,
        on_event: OnEvent = lambda _: None,
    ) -> None:
        bind_apps()
        from client.node import Node

        self._settings, self._serving, self._out, self._journal = settings, serving, out, journal
        self._ask, self._on_event = ask, on_event
        self._channel: NodesChannel | None = None
        self._region: Region | None = None
        self._address = ""
        self.node: Node = Node(settings, self._open, journal)

    @property
    def address(self) -> str:
        """Where its clients connect; empty before it serves."""
        return self._address

    def run(self) -> None:
        """Work until the run above is over.

        Raises:
            Interrupted: the operator stopped it.
            ConfigError: a kit is not valid.
            PlaitError: as `Node.run`.
        """
        # Now, and not when the first run has come.
        kit_of(self._serving)
        finished = False
        try:
            self.node.run()
            finished = True
        finally:
            if self._region is not None:
                self._region.close()
            if self._channel is not None:
                self._channel.stop(finished=finished)

    def _open(self, run: Run) -> TaskRunner:
        from client.runner import DecliningRunner

        try:
            return self._serve(run)
        except PolicyError as error:
            return DecliningRunner(run, self._settings.name, error)
        except PlaitError as error:
            if not run.stays or isinstance(error, DiskFullError):
                raise
            return DecliningRunner(run, self._settings.name, error)

    def _heard(self, event: events.Event) -> None:
        """Tell the operator of the region's clients, and pass the event on."""
        match event:
            case events.ClientsDescribed():
                names = [_shown(client.client) for client in event.clients]
                more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
                self._journal.tell("joined", f"joined: {', '.join(names[:_MOST_NAMED])}{more}")
            case events.ClientTurnedAway():
                why = f"{event.name} ({event.reason}): {event.detail}"
                self._journal.tell("turned-away", f"cannot take part: {_shown(why)}", client=event.name)
            case events.UpdateRefused():
                why = f"round {event.round}, {event.client}: {event.detail or event.why}"
                self._journal.tell("refused", f"refused: {_shown(why)}", client=event.client, round=event.round)
            case events.WaitingForClients():
                self._journal.tell("waiting", f"waiting: {event.fit} of {event.wanted} can take part")
            case _:
                pass
        self._on_event(event)

    def _serve(self, run: Run) -> RegionRunner:
        """Agree to a run, and serve it to the region's clients."""
        from client.base import agreed
        from client.runner import Capacity
        from plait.adapters.methods import METHODS
        from plait.features.trees.regional import below, open_region
        from plait.report.wording import plural
        from plait.rounds.description import REPLY_BYTES
        from plait.rounds.run_progress import LiveProgress, RunProgress
        from plait.rounds.validate import max_update_bytes
        from server.hosting import Terms
        from server.served_run import open_channel

        settings = self._settings
        agreement = agreed(run, settings, progress=lambda text: self._journal.tell("preparing", text), ask=self._ask)
        resolved, table = agreement.resolve(), dict(run.config)
        config = below(resolved.settled).config
        directory = RunDirectory(self._out / f"{run.run_id:016x}")
        if self._region is not None:
            self._region.close()
            self._region = None
        if self._channel is None:
            self._channel = open_channel(
                self._serving, clients=config.levels[0] if config.levels else 1, stays=run.stays
            )
        else:
            self._channel.end()
        self._region = open_region(
            resolved,
            settings.name,
            self._channel,
            directory.path,
            policy=agreement.policy,
            sign=settings.kit.node_key.sign if settings.kit else None,
            on_event=self._heard,
        )
        layout, has_regions = resolved.ranks.master.spec.layout, len(config.levels) > 1
        of = "region" if has_regions else "client"
        self._channel.begin(
            Terms(
                run.run_id,
                table | {key: config.to_table()[key] for key in ("tree", "deadline-s")},
                resolved.base_fingerprint,
            ),
            inbox=directory.inbox,
            max_answer_bytes=REPLY_BYTES + max_update_bytes(layout, sums=has_regions),
            summary=LiveProgress(
                directory.ledger,
                RunProgress(run=settings.name, rounds=config.rounds, deadline_s=config.deadline_s or None),
            ),
        )
        if not self._address:
            # Not before a run that has regions: the server above may have others first.
            self._channel.start()
            self._address = self._channel.address
        self._journal.tell("serving", f"serving {settings.name}'s clients on {self._address}")
        return RegionRunner(
            self._region,
            Capacity(
                base_fingerprint=resolved.base_fingerprint,
                methods=tuple(sorted(METHODS)),
                memory_bytes=0,
                device=f"a region of up to {plural(config.levels[0], of)}",
            ),
        )


def _shown(text: str) -> str:
    """Text of clients as one short line."""
    return printable(text, limit=300)

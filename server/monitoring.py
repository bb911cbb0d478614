"""What an operator sees of a server: its log, its counters, and their Prometheus page, ``http://ADDRESS/metrics``.

The log has one line per event, ``event=... key=value ...``, on Python's logger ``plait.server``. Text from peers is
escaped and cut, so that no peer can forge a line or fill the disk with one.

On loopback the page answers only to loopback's names, so that no web page reads it through a name of its own;
elsewhere, on a network of scrapers, to any.
"""

import json
import logging
import math
import re
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, MetricsHandler

from plait.errors import ConfigError
from plait.ledger import events
from plait.ledger.run_now import Progress, RunNow
from plait.system.address import Address, is_own_host

LOGGER = logging.getLogger("plait.server")

_MAX_VALUE_CHARACTERS = 200
_PLAIN = re.compile(r"[A-Za-z0-9_.:/@+\-\[\]]+")

# Events of the ledger, their names here, and the fields to log.
_LOGGED: Mapping[type[events.Event], tuple[str, tuple[str, ...]]] = {
    events.WaitingForClients: ("waiting-for-clients", ("here", "fit", "unfit", "wanted", "missing")),
    events.ClientsGathered: ("clients-gathered", ("fit", "wanted")),
    events.ClientTurnedAway: ("cannot-take-part", ("client", "reason", "detail")),
    events.ClientReplaced: ("client-replaced", ("round", "client", "by")),
    events.UpdateRefused: ("update-refused", ("round", "client", "reason", "stage", "detail")),
    events.StepTakenBack: ("step-taken-back", ("round", "worse", "accepted", "taken_back", "scale")),
    events.NotPublished: ("not-published", ("round", "kept", "risen", "above")),
    events.EndedEarly: ("ended-early", ("round", "reason")),
    events.RoundMissed: ("round-missed", ("round", "attempt", "received")),
}
_ONLY_IF_ANY = frozenset({"missing", "stage"})


def log(event: str, *, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event; field values other than plain words are written as JSON strings in ASCII."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", " ".join(f"{key}={shown(value)}" for key, value in {"event": event, **fields}.items()))


def log_run_event(event: events.Event) -> None:
    """Log the events of a run's ledger that matter to an operator."""
    if isinstance(event, events.ClientsDescribed):
        for client in event.clients:
            log("takes-part", client=client.client, train_examples=client.train_examples)
    elif logged := _LOGGED.get(type(event)):
        name, keys = logged
        fields = {key: getattr(event, key) for key in keys}
        log(name, **{key: value for key, value in fields.items() if value or key not in _ONLY_IF_ANY})


def shown(value: object) -> str:
    """A value on one line, in ASCII, of bounded length."""
    text = str(value)
    if len(text) > _MAX_VALUE_CHARACTERS:
        text = f"{text[:_MAX_VALUE_CHARACTERS]}..."
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


_POLL_S = 0.05
_MOST_CONNECTIONS = 16
_SCRAPE_S = 10.0
_Request = socket.socket | tuple[bytes, socket.socket]


class Metrics:
    """The server's counters and gauges; thread-safe."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.nodes_attached = self._gauge("nodes_attached", "Nodes that are connected and have proved their key.")
        self.enrolments_refused = self._counter("enrolments_refused", "Nodes refused.", "reason")
        self.calls_refused = self._counter("calls_refused", "Calls refused for their certificate.", "reason")
        self.downlink_bytes = self._counter("downlink_bytes", "Bytes of tasks sent to nodes.")
        self.uplink_bytes = self._counter("uplink_bytes", "Bytes of answers received from nodes.")
        self.tasks_given = self._counter("tasks_given", "Tasks assigned.")
        why_lost = "Tasks given up because their node left or gave an invalid answer."
        self.tasks_lost = self._counter("tasks_lost", why_lost)
        self.answers_received = self._counter("answers_received", "Answers received in full and kept.")
        self.answers_late = self._counter("answers_late", "Answers that came too late.")
        self.answers_refused = self._counter("answers_refused", "Answers refused.", "reason")
        self.bodies_held_bytes = self._gauge("bodies_held_bytes", "Bodies of tasks in memory.")
        self._of_run = {name: self._gauge(name, text) for name, (text, _) in _FIGURES.items()}
        away = "Nodes that have connected since the server started and are gone now."
        self.nodes_away = self._gauge("nodes_away", away)

    def follow_run(self, progress: Progress) -> None:
        """Read the figures of the run at every scrape."""

        def value(figure: Callable[[RunNow], float | None]) -> float:
            with progress() as now:
                found = figure(now)
            return math.nan if found is None else found

        for name, (_, figure) in _FIGURES.items():
            self._of_run[name].set_function(partial(value, figure))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"plait_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"plait_{name}", text, registry=self.registry)


def _figure(progress: RunNow, name: str) -> float | None:
    """A figure of the run's privacy or masks; None where there is none."""
    found = (card.status.get(name) for card in progress.cards.values())
    return next((float(value) for value in found if isinstance(value, int | float)), None)


_FIGURES: Mapping[str, tuple[str, Callable[[RunNow], float | None]]] = {
    "round": ("The current round, or the last one.", lambda now: now.round),
    "round_seconds": ("Time of the last finished round.", lambda now: now.round_s),
    "rounds": ("Planned rounds of the run.", lambda now: now.planned_rounds),
    "rounds_done": ("Finished rounds of the run.", lambda now: now.done),
    "run_eta_seconds": (
        "Estimated time for the remaining rounds and evaluations; NaN if unknown.", lambda now: now.eta_s,
    ),
    "staleness": (
        "Rounds that ended while a client trained, mean of the newest updates; NaN if rounds wait.",
        lambda now: now.mean_staleness,
    ),
    "held_out_loss": (
        "The newest held-out loss of the run; NaN before there is one.",
        lambda now: now.newest_evaluation and now.newest_evaluation.loss,
    ),
    "cohort_clients": ("Clients of the current round.", lambda now: len(now.cohort) if now.in_round else 0),
    "cohort_lost": (
        "Clients of the current round, whose update will not count.", lambda now: len(now.lost),
    ),
    "epsilon": (
        "Epsilon that the run has spent; NaN without differential privacy.", lambda now: _figure(now, "epsilon"),
    ),
}  # fmt: skip
"""The page's figures of the run: description and value."""


class MetricsServer:
    """Serves the page, and nothing else, until it is closed."""

    def __init__(self, listen: str, metrics: Metrics) -> None:
        address = Address.parse(listen, what="metrics address", listening=True)
        address.check_free()
        if ":" in address.host:
            raise ConfigError(f"metrics address is {address}; give a name or an IPv4 address")
        try:
            self._server = _Server((address.host, address.port), _page_of(metrics.registry, local=address.is_loopback))
        except OSError as error:
            raise address.cannot_listen(error) from error
        self.address = Address(address.host, self._server.server_address[1])
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=(_POLL_S,), name="plait-metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 16

    def __init__(self, address: tuple[str, int], page: type[MetricsHandler]) -> None:
        self._room = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, page)

    def process_request(self, request: _Request, client_address: object) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)  # type: ignore[arg-type]
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: _Request, client_address: object) -> None:
        end = threading.Timer(_SCRAPE_S, _cut, (request,))
        end.start()
        try:
            super().process_request_thread(request, client_address)  # type: ignore[arg-type]
        finally:
            end.cancel()
            self._room.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up early is not worth a log line."""


def _cut(request: _Request) -> None:
    """End a connection that another thread reads from or writes to."""
    if isinstance(request, socket.socket):
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)


def _page_of(figures: CollectorRegistry, *, local: bool) -> type[MetricsHandler]:
    class MetricsPage(MetricsHandler):
        registry = figures
        timeout = 5.0
        server_version = "plait"
        sys_version = ""

        def do_GET(self) -> None:  # noqa: N802 (the base class calls it so)
            names = self.headers.get_all("Host", [])
            if len(names) != 1 or (local and not is_own_host(names[0])):
                self.send_error(HTTPStatus.FORBIDDEN, explain="Host is not a name of this machine alone")
            elif self.path.partition("?")[0] != "/metrics":
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                super().do_GET()

    return MetricsPage

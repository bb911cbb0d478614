"""Tells alerts: a thread for each rule, with a short queue, bounded attempts and times, so that none delays another.

A command is run without a shell. What cannot be told is said on stderr, without the address or the token.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from plait.alerts.rules import Rule
from plait.alerts.watcher import Alert
from plait.errors import PlaitError

MOST_WAITING = 64
_FIRST_PAUSE_S = 1.0
_MOST_ANSWER_BYTES = 4096


class Teller:
    """Tells the alerts of one rule, in their order.

    Args:
        rule: says where they go.
        complain: called with a line about an alert that could not be told.
        pause_s: before the second attempt.
    """

    def __init__(self, rule: Rule, *, complain: Callable[[str], None], pause_s: float = _FIRST_PAUSE_S) -> None:
        self._rule = rule
        self._complain = complain
        self._pause_s = pause_s
        self._waiting: queue.Queue[Alert | None] = queue.Queue(MOST_WAITING)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="plait-alerts", daemon=True)
        self._thread.start()

    def put(self, alert: Alert) -> None:
        """Have an alert told; dropped, and said so, if too many wait."""
        try:
            self._waiting.put_nowait(alert)
        except queue.Full:
            self._complain(f"alert {alert['alert']} is dropped: {MOST_WAITING} wait already")

    def close(self, timeout_s: float) -> None:
        """Tell what waits, for so long at most."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(timeout_s)
        self._stopping.set()

    def _work(self) -> None:
        while (alert := self._waiting.get()) is not None:
            why = ""
            for attempt in range(self._rule.tries):
                if attempt and self._stopping.wait(min(60.0, self._pause_s * 2 ** (attempt - 1))):
                    return
                try:
                    why = self._attempt(alert)
                except PlaitError as error:
                    why = str(error)
                except Exception as error:
                    # Whatever goes wrong with one alert, the next ones are told.
                    why = type(error).__name__
                if not why:
                    break
            else:
                self._complain(f"alert {alert['alert']} was not told in {self._rule.tries} attempts: {why}")

    def _attempt(self, alert: Alert) -> str:
        """One attempt; why it failed, empty if it did not."""
        body = json.dumps(alert).encode()
        return _run(self._rule, body) if self._rule.command else _post(self._rule, body)


def _run(rule: Rule, body: bytes) -> str:
    process = subprocess.Popen(
        rule.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.communicate(body, timeout=rule.timeout_s)
    except subprocess.TimeoutExpired:
        # With whatever it has started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"command took longer than {rule.timeout_s:g} s"
    return f"command ended with {process.returncode}" if process.returncode else ""


def _post(rule: Rule, body: bytes) -> str:
    parts = urlsplit(rule.webhook)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, parts.port, timeout=rule.timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=rule.timeout_s)
    headers = {"content-type": "application/json", "user-agent": "plait"}
    if token := rule.token():
        headers["authorization"] = f"Bearer {token}"
    place = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    connection.connect()
    # An answer that comes byte by byte would renew the socket's own timeout.
    timer = threading.Timer(rule.timeout_s, _cut, (connection.sock,))
    timer.daemon = True
    timer.start()
    try:
        connection.request("POST", place, body=body, headers=headers)
        response = connection.getresponse()
        response.read(_MOST_ANSWER_BYTES)
        return "" if 200 <= response.status < 300 else f"webhook answered {response.status}"
    finally:
        timer.cancel()
        connection.close()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)

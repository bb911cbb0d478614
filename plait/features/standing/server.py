"""A standing server in a Python program: it serves in its own thread while the program continues."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from plait.api.result import Result
from plait.api.serving import CLIENTS_SETTINGS, Serving, ServingOptions, check_no_data
from plait.api.settings import RunSettings, base_name, run_config_of
from plait.errors import ConfigError, Interrupted, MachineError
from plait.rounds.run_directory import RunDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from plait.adapters import Json
    from plait.aggregation import Rule
    from plait.features.standing.standing import Standing

_BY = "(program)"
"""Who submits and cancels what a program does, in the journal; no operator has such a name."""
_LOOK_S = 0.2


class StandingServer:
    """A federation over gRPC for many runs, as ``plait server --stay`` is.

    `submit` queues runs, `out` holds the journal and the runs, and clients stay connected. Leaving the block stops the
    server; it can be continued::

        with plait.StandingServer(insecure=True, out="federation") as server:
            …  # clients connect to server.address
            run = server.wait(server.submit(clients=3, base="tiny", rounds=2))

    Args:
        out: directory of the journal and of all runs.
        listen: address and port to serve on; port 0 is any free one.
        kit: the server's kit, from ``plait provision``.
        insecure: whether to serve without TLS and keys, on a loopback address only.
        metrics: address of the Prometheus page; empty for none.
        grace_s: seconds that a client may be disconnected before its task is given up.
        quiet: whether to show no progress.

    Raises:
        ConfigError: neither kit nor insecure is given, or both.
    """

    def __init__(
        self, *, out: str | PathLike[str] = "federation", quiet: bool = False, **serving: Unpack[ServingOptions]
    ) -> None:
        self._directory = Path(out)
        self._serving = Serving.of(serving)
        self._quiet = quiet
        self._standing: Standing | None = None
        self._serves = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def address(self) -> str:
        """Host and port that clients connect to.

        Raises:
            ConfigError: it does not serve yet.
        """
        return self._queueing().channel.address

    def start(self) -> None:
        """Begin to serve; a run begins once enough clients are there.

        Raises:
            PlaitError: it cannot serve.
        """
        from plait.features.standing.standing import Standing

        self._standing = Standing(self._directory, self._serving, quiet=self._quiet)
        self._thread = threading.Thread(target=self._stand, args=(self._standing,), name="plait-server", daemon=True)
        self._thread.start()
        self._serves.wait()
        if self._error is not None:
            raise self._error

    def submit(
        self,
        *,
        clients: int | None = None,
        base: str | PathLike[str] | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        rule: str | Rule | Callable[..., object] | None = None,
        rounds: int | None = None,
        name: str = "",
        priority: int = 0,
        cohort_labels: Sequence[str] = (),
        **settings: Unpack[RunSettings],
    ) -> str:
        """Put a run into the queue.

        Args:
            clients: to wait for before the first round.
            base: as for `plait.simulate`; clients need the same one.
            tokenizer: of a base in memory.
            rule: how updates are combined.
            rounds: of training.
            name: of the run; by default run-1, run-2 …
            priority: higher ones run first.
            cohort_labels: labels that clients must have to take part.
            settings: any other setting of a run.

        Returns:
            The run's name.

        Raises:
            ConfigError: the server has not started or has stopped, a setting is not valid, the queue is
                full, or no client could take part.
        """
        check_no_data(settings)
        given = {"clients": clients, "base": base_name(base, tokenizer), "rule": rule, "rounds": rounds}
        table = run_config_of({**settings, **given, **dict.fromkeys(CLIENTS_SETTINGS, "")}).to_table()
        return self._queueing(takes=True).submit(
            _BY, json.dumps(table), priority=priority, cohort_labels=cohort_labels, name=name
        )

    def runs(self) -> list[dict[str, Json]]:
        """The runs in the order they were submitted, as ``plait runs --json`` has them.

        Raises:
            ConfigError: the server has not started.
        """
        return self._queueing().runs()

    def cancel(self, run: str) -> None:
        """Cancel a run that waits or is served.

        Raises:
            ConfigError: the server has not started or has stopped, there is no such run, or it is over.
        """
        self._queueing(takes=True).cancel(_BY, run)

    def wait(self, run: str, timeout_s: float | None = None) -> Result:
        """Wait until a run is over.

        Args:
            run: its name.
            timeout_s: how long; None for as long as it takes.

        Returns:
            The finished run; an unfinished one if the server was stopped.

        Raises:
            ConfigError: there is no such run, or the server has not started.
            MachineError: it is not over in time, was cancelled, has failed, or the server stopped before it began.
            PlaitError: the reason that the server stopped.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        place = self._directory / "runs" / run
        while True:
            # Asked first: a run that ends with the server stands in its queue by then.
            is_over = self._thread is not None and not self._thread.is_alive()
            entry = self._queueing().run(run)
            if entry["state"] == "finished":
                return Result(place)
            if entry["state"] not in ("queued", "running"):
                raise MachineError(f"run {run} is {entry['state']}: {entry['detail']}")
            if is_over:
                if self._error is not None:
                    raise self._error
                if not RunDirectory(place).has_started:
                    raise MachineError(f"run {run} has not begun, and the server has stopped; start it again")
                return Result(place)
            if end is not None and time.monotonic() > end:
                raise MachineError(f"run {run} is not over after {timeout_s:g} s; wait again, or cancel it")
            time.sleep(_LOOK_S)

    def stop(self) -> None:
        """Stop, so that the same server can continue; clients try to connect again."""
        if self._standing is not None:
            self._standing.stop()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _queueing(self, *, takes: bool = False) -> Standing:
        """The queue; with `takes`, one that still takes orders."""
        if self._standing is None:
            raise ConfigError("this server has not started, expected start or a with block before")
        if takes and not (self._thread and self._thread.is_alive()):
            raise ConfigError("this server has stopped, expected one that serves")
        return self._standing

    def _stand(self, standing: Standing) -> None:
        try:
            standing.serve(on_start=lambda _: self._serves.set())
        except Interrupted:
            pass  # asked by `stop`
        except BaseException as error:  # `start` or `wait` raises it
            self._error = error
        finally:
            self._serves.set()

"""A federation's server in a Python program: it serves in threads of its own while the program goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from plait.api.result import Result
from plait.api.service import Service, conclude, open_service
from plait.api.serving import CLIENTS_SETTINGS, Serving, load_serving, new_run_number
from plait.api.settings import RunSettings, base_name, run_config_of
from plait.errors import ConfigError, Interrupted, MachineError
from plait.rounds.callbacks import Callbacks, Hearing, names_of, patience_of
from plait.rounds.ledger import read_events
from plait.rounds.run_directory import RunDirectory
from plait.rounds.stop import StopRequest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from plait.adapters import Json
    from plait.aggregation import Rule
    from plait.api.standing import Standing

_BY = "(program)"
"""Who submits and cancels what a program does, in the journal; no operator has such a name."""
_LOOK_S = 0.2


class Server:
    """A federation over gRPC, as ``plait server`` runs it; give the same arguments again to continue a run.

    Leaving its block stops the run, if it is not over, where it can be continued::

        with plait.Server(clients=3, base="tiny", rounds=2, insecure=True, out="runs/three") as server:
            …  # clients connect to server.address
            run = server.wait()

    With ``stay`` it is one for many runs, as ``plait server --stay`` is: `submit` puts them into its queue, `out` keeps
    journal and runs, and its clients stay connected::

        with plait.Server(stay=True, insecure=True, out="federation") as server:
            …  # clients connect to server.address
            run = server.wait(run=server.submit(clients=3, base="tiny", rounds=2))

    Args:
        clients: to wait for before the first round.
        base: as for `plait.simulate`; clients need the same one.
        tokenizer: of a base in memory.
        rule: how updates are combined.
        rounds: of training.
        out: the run directory; by default ``runs/<time>``.
        listen: address and port to serve on; port 0 is any free one.
        kit: the server's kit, from ``plait provision``.
        insecure: whether to serve without TLS and keys, on a loopback address only.
        metrics: address of the Prometheus page; empty for none.
        grace_s: seconds that a client may be disconnected before its task is given up.
        callbacks: called with every event of the run, in the run's thread.
        quiet: whether to show no progress.
        stay: whether to serve run after run; what belongs to one run is given to `submit` then.
        settings: any other setting of a run.

    Raises:
        ConfigError: a setting is not valid, or neither kit nor insecure is given.
    """

    def __init__(
        self,
        *,
        clients: int | None = None,
        base: str | PathLike[str] | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        rule: str | Rule | Callable[..., object] | None = None,
        rounds: int | None = None,
        out: str | PathLike[str] | None = None,
        listen: str = "127.0.0.1:0",
        kit: str | PathLike[str] | None = None,
        insecure: bool = False,
        metrics: str = "",
        grace_s: float = 30.0,
        callbacks: Callbacks = (),
        quiet: bool = False,
        stay: bool = False,
        **settings: Unpack[RunSettings],
    ) -> None:
        if (kit is None) is not insecure:
            raise ConfigError("kit and insecure are both given or both missing, expected one of them")
        _check_no_data(settings)
        named = {"clients": clients, "base": base_name(base, tokenizer), "rule": rule, "rounds": rounds}
        if stay and (settings or callbacks or any(value is not None for value in named.values())):
            raise ConfigError("a run's settings are given with stay, expected them as arguments of submit")
        named |= {"out": out if out is not None or not stay else "federation", "callbacks": names_of(callbacks)}
        given = {**settings, **named, **dict.fromkeys(CLIENTS_SETTINGS, "")}
        self._settings = run_config_of(given, patience=patience_of(callbacks))
        self._directory = RunDirectory(Path(self._settings.out))
        self._stays = stay
        before = load_serving(self._directory.server)
        self._serving = Serving(
            listen=listen,
            kit=str(Path(kit).absolute()) if kit is not None else "",
            metrics=metrics,
            grace_s=grace_s,
            run_number=before.run_number if before else new_run_number(),
        )
        self._quiet = quiet
        self._stop = StopRequest()
        self._hearing = Hearing(callbacks, self._stop)
        self._service: Service | None = None
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
        serving = self._service or self._standing
        if serving is None:
            raise ConfigError("the server has no address yet, expected start or a with block before")
        return serving.grid.address

    def start(self) -> None:
        """Begin to serve; a run begins once enough clients are there.

        Raises:
            PlaitError: it cannot serve, or not this run.
        """
        if self._stays:
            from plait.api.standing import Standing

            self._standing = Standing(self._directory.path, self._serving, quiet=self._quiet)
            self._thread = threading.Thread(
                target=self._stand, args=(self._standing,), name="plait-server", daemon=True
            )
            self._thread.start()
            self._serves.wait()
            if self._error is not None:
                raise self._error
            return
        directory = self._directory
        if directory.has_started:
            self._hearing.repeat(read_events(directory.ledger))
        self._service = open_service(
            directory, self._settings, self._serving, on_event=self._hearing, stop=self._stop, quiet=self._quiet
        )
        if self._service is None:
            conclude(directory)
            return
        self._service.grid.start()
        self._thread = threading.Thread(target=self._work, args=(self._service,), name="plait-server", daemon=True)
        self._thread.start()

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
        """Put a run into the queue of a server that stays.

        Args:
            clients: to wait for before the first round.
            base: as for `plait.simulate`; clients need the same one.
            tokenizer: of a base in memory.
            rule: how updates are combined.
            rounds: of training.
            name: of the run; by default run-1, run-2 …
            priority: higher ones run first.
            cohort_labels: what clients must state to take part.
            settings: any other setting of a run.

        Returns:
            The run's name.

        Raises:
            ConfigError: the server does not stay, has not started or has stopped, a setting is not valid, the queue is
                full, or no client could take part.
        """
        _check_no_data(settings)
        given = {"clients": clients, "base": base_name(base, tokenizer), "rule": rule, "rounds": rounds}
        table = run_config_of({**settings, **given, **dict.fromkeys(CLIENTS_SETTINGS, "")}).to_table()
        return self._queueing(takes=True).submit(
            _BY, json.dumps(table), priority=priority, cohort_labels=cohort_labels, name=name
        )

    def runs(self) -> list[dict[str, Json]]:
        """The runs of a server that stays in the order in which they were submitted, as ``plait runs --json`` has them.

        Raises:
            ConfigError: the server does not stay, or has not started.
        """
        return self._queueing().runs()

    def cancel(self, run: str) -> None:
        """Cancel a run of a server that stays, which waits or is served.

        Raises:
            ConfigError: the server does not stay, has not started or has stopped, there is no such run, or it is over.
        """
        self._queueing(takes=True).cancel(_BY, run)

    def wait(self, timeout_s: float | None = None, *, run: str = "") -> Result:
        """Wait until the run is over.

        Args:
            timeout_s: how long; None for as long as it takes.
            run: which one, of a server that stays.

        Returns:
            The finished run; an unfinished one if it was stopped.

        Raises:
            ConfigError: `run` is missing where the server stays, or it is none of its runs.
            MachineError: it is not over in time, was cancelled, has failed, or the server stopped before it began.
            PlaitError: the reason that the run stopped.
            Exception: what a callback raised.
        """
        if self._stays:
            return self._wait_for(run, timeout_s)
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise MachineError(f"the run is not over after {timeout_s:g} s; wait again, or stop it")
        self._hearing.check()
        if self._error is not None:
            raise self._error
        return Result(self._directory.path)

    def stop(self) -> None:
        """Stop the run, if it is not over, so that the same server can continue it; clients try to connect again."""
        self._stop.asked = True
        if self._standing is not None:
            self._standing.stop()
        if self._thread is not None:
            self._thread.join()

    def _queueing(self, *, takes: bool = False) -> Standing:
        """The queue; with `takes`, one that still takes orders."""
        if self._standing is None:
            raise ConfigError("this server has no queue, expected stay=True, and start or a with block before")
        if takes and not (self._thread and self._thread.is_alive()):
            raise ConfigError("this server has stopped, expected one that serves")
        return self._standing

    def _wait_for(self, run: str, timeout_s: float | None) -> Result:
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            # Asked first: a run that ends with the server stands in its queue by then.
            is_over = self._thread is not None and not self._thread.is_alive()
            entry = self._queueing().run(run)
            place = self._directory.path / "runs" / run
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

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self, service: Service) -> None:
        finished = False
        try:
            with service.followed(quiet=self._quiet):
                try:
                    service.drive(quiet=self._quiet)
                    finished = True
                finally:
                    service.grid.stop(finished=finished)
                conclude(service.directory)
        except Interrupted:
            # Asked by `stop` or by a callback.
            pass
        except BaseException as error:  # `wait` raises it
            self._error = error

    def _stand(self, standing: Standing) -> None:
        try:
            standing.serve(on_start=lambda _: self._serves.set())
        except Interrupted:
            pass  # asked by `stop`
        except BaseException as error:  # `wait` raises it
            self._error = error
        finally:
            self._serves.set()


def _check_no_data(settings: Mapping[str, object]) -> None:
    for key in CLIENTS_SETTINGS:
        if settings.get(key):
            raise ConfigError(f"{key} is given, expected none: clients bring their own data")

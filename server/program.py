"""A federation's server in a Python program: it serves in its own threads while the program continues."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack, cast

from plait.api.result import Result
from plait.api.serving import CLIENTS_SETTINGS, Serving, ServingOptions, check_no_data
from plait.api.settings import RunSettings, base_name, run_config_of
from plait.errors import ConfigError, MachineError, RunInterrupted
from plait.ledger.ledger import read_events
from plait.rounds.callbacks import CallbackRunner, Callbacks, names_of
from plait.rounds.channel import StopRequest
from plait.rounds.run_directory import RunDirectory
from server.served_run import ServedRun, open_served_run

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from plait.aggregation import Rule


class ServerSettings(RunSettings, ServingOptions, total=False):
    """Settings of a run, and where and how it is served."""


class Server:
    """A federation over gRPC, as ``plait server`` runs it; give the same arguments again to continue a run.

    Leaving the block stops an unfinished run; it can be continued::

        with plait.Server(clients=3, base="tiny", rounds=2, insecure=True, out="runs/three") as server:
            …  # clients connect to server.address
            run = server.wait()

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
        callbacks: Callbacks = (),
        quiet: bool = False,
        **settings: Unpack[ServerSettings],
    ) -> None:
        check_no_data(settings)
        where = {key: settings.pop(key) for key in ServingOptions.__annotations__ if key in settings}
        named = {"clients": clients, "base": base_name(base, tokenizer), "rule": rule, "rounds": rounds}
        named |= {"out": out, "callbacks": names_of(callbacks)}
        given = {**settings, **named, **dict.fromkeys(CLIENTS_SETTINGS, "")}
        self._settings = run_config_of(given)
        self._directory = RunDirectory(Path(self._settings.out))
        self._serving = Serving.of(cast("ServingOptions", where), file=self._directory.server)
        self._quiet = quiet
        self._stop = StopRequest()
        self._hearing = CallbackRunner(callbacks, self._stop)
        self._served: ServedRun | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    @property
    def address(self) -> str:
        """Host and port that clients connect to.

        Raises:
            ConfigError: it does not serve yet.
        """
        if self._served is None:
            raise ConfigError("the server has no address yet; call start, or use a with block")
        return self._served.channel.address

    def start(self) -> None:
        """Begin to serve; a run begins once enough clients are there.

        Raises:
            PlaitError: it cannot serve, or not this run.
        """
        directory = self._directory
        if directory.has_started:
            self._hearing.repeat(read_events(directory.ledger))
        self._served = open_served_run(
            directory, self._settings, self._serving, on_event=self._hearing, stop=self._stop, quiet=self._quiet
        )
        if self._served is None:
            return
        self._served.channel.start()
        self._thread = threading.Thread(target=self._work, args=(self._served,), name="plait-server", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> Result:
        """Wait until the run is over.

        Args:
            timeout_s: how long; None for as long as it takes.

        Returns:
            The finished run; an unfinished one if it was stopped.

        Raises:
            MachineError: it is not over in time.
            PlaitError: the reason that the run stopped.
            Exception: what a callback raised.
        """
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
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self, served: ServedRun) -> None:
        try:
            with ExitStack() as serving:
                serving.push(served.channel)  # which has started
                served.work(serving)
        except RunInterrupted:
            # Asked by `stop` or by a callback.
            pass
        except BaseException as error:  # `wait` raises it
            self._error = error

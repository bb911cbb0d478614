"""A federation's client in a Python program: it works in its own threads while the program continues.

Clients of one process take turns (`plait.api.turns`).
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Self

from plait.api.data import dataset_of
from plait.api.settings import base_name
from plait.api.turns import TURN
from plait.data import MEMORY
from plait.errors import ConfigError, Interrupted, MachineError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from client.node import Node
    from client.runner import Capacity, Run, TaskRunner
    from client.task import Answer, Task


class Client:
    """A client with its own data, as ``plait client`` runs it: it stays until the run is over.

    What a server may ask is limited by `policy`, as on the command line; a program that makes a client consents to any
    run within it.

    Args:
        data: the client's own, as for `plait.simulate`; they never leave this process.
        server: address of the server, HOST:PORT.
        columns: which columns hold what, if they do not have the usual names, as for `plait.simulate`.
        split: the split to train on, or ``TRAIN,HELD_OUT``.
        kit: the client's start-up kit, from ``plait provision``.
        insecure: whether to connect without TLS and keys, to this machine only.
        name: of the client, if it has no kit; by default the name of the data.
        base: the run's base, if it has another name or path here, or is in memory; ``NAME=DIRECTORY,…`` for several.
        tokenizer: of a base in memory.
        trainer: the local trainer that a run may name.
        trainer_exec: command of a program that trains instead of PyTorch; `data` is then the path that it reads.
        allow_plugins: modules whose parts, such as a loss, a run may name; installed distributions need no permission.
        device: to compute on; several, such as ``cuda:0,cuda:1``, share every step.
        dtype: of the frozen base.
        threads: CPU threads; 0 for torch's default.
        state: directory of its state; by default in the user's home.
        max_memory_gb: most memory of each device to announce to the server, to plan training for and, of a CUDA GPU,
            to use; 0 for all.
        max_rank: largest rank to accept; 0 for any.
        policy: TOML file that limits what a server may ask; safe limits by default.
        labels: what to say of this machine, such as ``gpu,region=eu``; runs of a standing server may ask for it.
        dp_max_epsilon: refuse runs without client-level differential privacy or with a larger epsilon; 0 accepts any.
        require_secure_aggregation: refuse runs whose server would see this client's own update.
        quiet: whether to show nothing.

    Raises:
        ConfigError: an argument is not valid.
        DataError: the data are not.
    """

    def __init__(
        self,
        data: object,
        *,
        server: str,
        columns: str | Mapping[str, str] = "",
        split: str = "",
        kit: str | PathLike[str] | None = None,
        insecure: bool = False,
        name: str = "",
        base: str | PathLike[str] | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        trainer: str = "",
        trainer_exec: str = "",
        allow_plugins: Iterable[str] = (),
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 0,
        state: str | PathLike[str] | None = None,
        max_memory_gb: float = 0.0,
        max_rank: int = 0,
        policy: str | PathLike[str] | None = None,
        labels: str = "",
        dp_max_epsilon: float = 0.0,
        require_secure_aggregation: bool = False,
        quiet: bool = False,
    ) -> None:
        from client.journal import Journal, Style
        from client.settings import check_settings

        if trainer_exec and not isinstance(data, (str, PathLike)):
            raise ConfigError(f"data is a {type(data).__name__}, expected a path: the program of trainer-exec reads it")
        self._dataset = None if trainer_exec else dataset_of(data, columns=columns, split=split, name=name)
        held = Path(fspath(data)).stem if isinstance(data, (str, PathLike)) else ""
        known_as = self._dataset.name if self._dataset else held
        named = base_name(base, tokenizer)
        self._settings = check_settings(
            server=server,
            data=fspath(data) if isinstance(data, (str, PathLike)) else f"{MEMORY}{known_as}",
            kit=_path(kit),
            name=name or ("" if kit is not None else known_as),
            insecure=insecure,
            base=fspath(named) if named is not None else "",
            trainer=trainer,
            trainer_exec=trainer_exec,
            allow_plugins=allow_plugins,
            device=device,
            dtype=dtype,
            threads=threads,
            state=_path(state),
            max_memory_gb=max_memory_gb,
            max_rank=max_rank,
            policy=_path(policy),
            labels=labels,
            dp_max_epsilon=dp_max_epsilon,
            require_secure_aggregation=require_secure_aggregation,
            yes=True,
        )
        self._journal = Journal(Style.QUIET if quiet else Style.LINES, sys.stderr)
        self._node: Node | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._error: BaseException | None = None

    @property
    def name(self) -> str:
        """The client's name in the federation."""
        return self._settings.name

    def start(self) -> None:
        """Begin to connect and to work."""
        self._thread = threading.Thread(target=self._work, name=f"plait-client-{self.name}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until the run is over for this client.

        Args:
            timeout_s: how long; None for as long as it takes.

        Raises:
            MachineError: it is not over in time.
            PlaitError: the server refused the client, or it cannot work for this run.
        """
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise MachineError(f"the run is not over after {timeout_s:g} s; wait again, or stop the client")
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop after the current step of training; the same client continues later."""
        self._stopped = True
        if self._node is not None:
            self._node.stop()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _work(self) -> None:
        from client.process import make_node, node_with_program
        from client.state_directory import locked

        settings = self._settings
        try:
            with locked(settings.state, settings.name), ExitStack() as stack:
                if self._dataset is None:
                    self._node = stack.enter_context(node_with_program(settings, self._journal, None))
                else:
                    with TURN:
                        self._node = make_node(settings, self._dataset, self._journal, wrap=_in_turn)
                if not self._stopped:
                    self._node.run()
        except Interrupted:
            # Asked by `stop`.
            pass
        except BaseException as error:
            self._error = error


class _InTurn:
    """A task runner that does one task of this process at a time."""

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner

    @property
    def capacity(self) -> Capacity:
        """What this node can do."""
        return self._runner.capacity

    def answer(self, task: Task, body: bytes) -> Answer:
        """Do a task."""
        with TURN:
            return self._runner.answer(task, body)


def _in_turn(opening: Callable[[Run], TaskRunner]) -> Callable[[Run], TaskRunner]:
    def open_in_turn(run: Run) -> TaskRunner:
        with TURN:
            return _InTurn(opening(run))

    return open_in_turn


def _path(given: str | PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)

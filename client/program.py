"""A federation's client in a Python program: it works in its own threads; clients of one process take turns."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from os import PathLike, fspath
from typing import TYPE_CHECKING, Self, Unpack

from client.journal import Journal, Style
from client.node import Node
from client.process import make_node
from client.settings import NodeOptions, check_settings, locked
from plait.api import TURN
from plait.api.settings import base_name, dataset_of
from plait.data import MEMORY
from plait.errors import MachineError, RunInterrupted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Client:
    """A client with its own data, as ``plait client`` runs it: it stays until the run is over.

    What a server may ask is limited by `policy`, as on the command line; a program that makes a client consents to any
    run within it.

    Args:
        data: the client's own, as for `plait.simulate`; they never leave this process.
        base: the run's base, if it has another name or path here, or is in memory; ``NAME=DIRECTORY,…`` for several.
        tokenizer: of a base in memory.
        columns: which columns hold what, if they do not have the usual names, as for `plait.simulate`.
        quiet: whether to show nothing.
        options: the other options of ``plait client`` (`client.settings.NodeOptions`), of which ``server`` is needed.

    Raises:
        ConfigError: an argument is not valid.
        DataError: the data are not.
    """

    def __init__(
        self,
        data: object,
        *,
        base: str | PathLike[str] | PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        columns: str | Mapping[str, str] = "",
        quiet: bool = False,
        **options: Unpack[NodeOptions],
    ) -> None:
        name = options.get("name", "")
        self._dataset = dataset_of(data, columns=columns, split=options.get("split", ""), name=name)
        known_as = self._dataset.name
        named = base_name(base, tokenizer)
        options["name"] = name or ("" if options.get("kit") is not None else known_as)
        self._settings = check_settings(
            **options,
            data=fspath(data) if isinstance(data, (str, PathLike)) else f"{MEMORY}{known_as}",
            base=fspath(named) if named is not None else "",
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
        settings = self._settings
        try:
            with locked(settings.state, settings.name):
                with TURN:
                    self._node = make_node(settings, self._dataset, self._journal)
                if not self._stopped:
                    self._node.run()
        except RunInterrupted:
            # Asked by `stop`.
            pass
        except BaseException as error:
            self._error = error

"""``plait client``, and `Client`: take part in a federation with one's own data, in a process or a Python program.

A program's clients work in threads of their own, and take turns.
"""

from __future__ import annotations

import inspect
import json
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Self, Unpack, get_args, get_type_hints

import typer

from client.consent import asker
from client.forgotten import Forgotten
from client.node import Node
from client.sent import SentLines, recorded, rounds_in
from client.settings import (
    CommandOptions,
    NodeOptions,
    NodeSettings,
    Place,
    check_settings,
    locked,
    memory_folder,
    prune,
)
from client.task import Journal, OfferedRun, Style, TaskRunner, shown
from plait.api import TURN
from plait.api.settings import base_name, dataset_of
from plait.data import MEMORY, Dataset, as_dataset
from plait.errors import ConfigError, MachineError, RunInterrupted
from plait.plugins import admit
from plait.report.wording import bytes_text
from plait.training.bases import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_FORGET = (
    "Leave this group of --group out of the data in all later rounds, print which rounds it was in, and end. May be "
    "repeated."
)


def client(*, json_output: bool, quiet: bool, forget: Sequence[str] = (), **given: Unpack[CommandOptions]) -> None:
    """Take part in a federation with your own data, which stays on this machine.

    It reconnects until the run is over, or waits for the next one if the server stays between runs. Ctrl-C stops it
    after the current training step.

    Example: plait client --kit kit/clients/alice --server plait.example.org:9440 --data alice.jsonl
    """
    if json_output and quiet:
        raise ConfigError("json and quiet are both given; give one of them")
    settings = check_settings(**given)
    chosen = Style.JSON if json_output else Style.QUIET if quiet else Style.LINES
    journal = Journal(chosen, sys.stdout if json_output else sys.stderr)
    if forget:
        forget_groups(settings, forget, journal)
    else:
        run_node(settings, journal)


def forget_groups(settings: NodeSettings, names: Sequence[str], journal: Journal) -> None:
    """Leave groups out of the client's data in all later rounds, and report the rounds that they were in."""
    if not settings.group:
        raise ConfigError("forget is given without group; give --group COLUMN with the one that names these groups")
    with locked(settings.state, settings.name):
        dataset, sent = _data_of(settings), SentLines.of(settings.state, settings.name)
        dataset.check_column(settings.group, "group")
        kept = Forgotten.of(settings.state, settings.name)
        for name in names:
            kept = kept.with_group(dataset, settings.group, name.strip(), lines=sent.count)
        known = {each.hash: each for each in kept.groups}
        for name in names:
            before = known[kept.hash_of(settings.group, name.strip())].lines
            rounds = rounds_in(sent.read()[:before])
            was_in = "; ".join(f"run {run[:16]}, {_rounds(each)}" for run, each in rounds.items())
            journal.report(
                "forgotten",
                f"{shown(settings.group)} {shown(name)} is left out of this client's data in all later rounds; it was "
                f"in the data of {was_in or 'no round'}. What these rounds learned stays in their adapter: only a run "
                "without this client takes it out (plait resume RUN --withdraw NAME, at the server)",
                rounds=json.dumps(rounds),
            )


def run_node(settings: NodeSettings, journal: Journal) -> None:
    """Run a node until its run is over."""
    with locked(settings.state, settings.name):
        ask = asker("Take part in this run?") if journal.style is Style.LINES else None
        dataset = _data_of(settings)
        count = len(dataset.records)
        journal.report("data", f"{count} record{'' if count == 1 else 's'} of own data read", records=count)
        node = make_node(settings, dataset, journal, ask=ask)
        with stopped_by_signals(node):
            node.run()


def _rounds(each: Sequence[int]) -> str:
    if len(each) > 1 and each[-1] - each[0] == len(each) - 1:
        return f"rounds {each[0]} to {each[-1]}"
    return f"round{'s' if len(each) > 1 else ''} {', '.join(map(str, each))}"


def _data_of(settings: NodeSettings) -> Dataset:
    admit(settings.data)
    return as_dataset(settings.data, columns=settings.columns, split=settings.split)


def make_node(
    settings: NodeSettings,
    dataset: Dataset,
    journal: Journal,
    *,
    ask: Callable[[], bool] | None = None,
) -> Node:
    """A node that takes part with these data; `ask` is None without a terminal."""

    def progress(text: str) -> None:
        journal.report("preparing", text)

    def open_for(run: OfferedRun) -> TaskRunner:
        make_room(run, settings, journal)
        opening = partial(open_runner, run, settings, dataset, progress=progress, ask=ask, kept=kept)
        return or_decline(run, settings.name, opening)

    progress("loading libraries")
    quiet_libraries()
    from client.base import KeptBase, check_machine, open_runner, or_decline  # brings torch along

    check_machine(settings, progress=progress)
    kept = KeptBase()
    return Node(settings, recorded(settings, open_for), journal)


def make_room(run: OfferedRun, settings: NodeSettings, journal: Journal) -> None:
    """Remove what the server of an earlier run could send again, and report the rest of such runs."""
    keep = memory_folder(settings.state, run.run_id, settings.name)
    runs, kept_bytes = prune(settings.state, settings.name, keep=keep)
    if runs:
        journal.report(
            "state",
            f"'{settings.state}' holds {bytes_text(kept_bytes)} of earlier runs ({runs}): personalized adapters and "
            "the state of unfinished runs; delete the folders of runs that you no longer need",
            runs=runs,
            bytes=kept_bytes,
        )


@contextmanager
def stopped_by_signals(node: Node) -> Generator[None]:
    """The first Ctrl-C or SIGTERM stops the node in an orderly way, the second at once."""
    asked = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        node.stop(by_system=number == signal.SIGTERM)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _options() -> Iterator[inspect.Parameter]:
    usual = {str: "", bool: False, int: 0, float: 0.0, Place: None}
    hints = get_type_hints(CommandOptions, include_extras=True)
    for name, hint in sorted(hints.items(), key=lambda each: each[0] not in CommandOptions.__required_keys__):
        kind, help_text = get_args(hint)
        default: object = "auto" if name in ("device", "dtype") else usual.get(kind, ())
        if name in CommandOptions.__required_keys__:
            (kind,), default = get_args(kind), inspect.Parameter.empty
        option = typer.Option(f"--{name.replace('_', '-')}", help=help_text)
        if name == "allow_plugins":
            kind, option = list[str], typer.Option("--allow-plugin", help=help_text, metavar="MODULE")
        annotation = Annotated[Path | None if kind == Place else kind, option]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    forget = Annotated[list[str], typer.Option("--forget", help=_FORGET, metavar="GROUP")]
    yield inspect.Parameter("forget", inspect.Parameter.KEYWORD_ONLY, default=(), annotation=forget)
    for name, flag, help_text in (
        ("json_output", "--json", "Print events as lines of JSON."), ("quiet", "--quiet", "Print only errors."),
    ):  # fmt: skip
        annotation = Annotated[bool, typer.Option(flag, help=help_text)]
        yield inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)


client.__signature__ = inspect.Signature(list(_options()))  # pyright: ignore[reportFunctionMemberAccess]
client.__annotations__ = {}


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

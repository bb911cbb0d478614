"""Hostile names of clients, runs, adapters and tensors: none writes outside, none is more than text anywhere.

Each name is used wherever names of its kind occur: the ledger and its report (tables on a terminal and a page), the
server's log and status, a node's journal, kits, model cards, files. Refused or accepted, the output must be harmless.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from html.parser import HTMLParser
from pathlib import Path

import grpc
from rich.console import Console
from scoreboard.row import Row
from scoreboard.small_federation import FakeModel, borrowed, no_waiting_for_the_disk, of_numbers, signed

from client.journal import Journal, Style
from client.task import ClientTask
from plait.adapters import AdapterState, BaseReference, Layout, model_card, save_peft_directory
from plait.adapters.peft_reading import load_peft_directory
from plait.adapters.safetensors import read_safetensors, write_safetensors
from plait.cli.main import main
from plait.data.records import Dataset, Record, RecordKind
from plait.errors import PlaitError
from plait.ledger.events import parse_event
from plait.ledger.ledger import Ledger, read_events
from plait.ledger.run_view import RunView
from plait.report.html import _ALTERNATIVE_TEXTS, render_html
from plait.report.status import status_tables
from plait.report.table import Table
from plait.report.tables import report_tables
from plait.report.terminal import to_rich
from plait.rounds.run_directory import RunDirectory
from plait.simulation.partition import partition
from plait.simulation.scheme import parse_partition
from plait.v1 import federation_pb2 as pb
from server.hosting import Terms
from server.log import LOGGER
from server.nodes_channel import NodesChannel
from server.uploads import Limits

OUTSIDE = "outside-of-the-run"
NAMES = (
    f"../../../../../{OUTSIDE}", "CON", "\x9b31mred", "<script>alert(1)</script>",
    "[red]markup[/red] =cmd|'/C calc'!A0 %s%n {{7*7}}", f"/{OUTSIDE}", "..", ".", "a/b",
    f"..\\..\\..\\..\\..\\{OUTSIDE}", "x" * 300, " ", "-rf", "\x1b[2J\x1b[31mred", "\x1b]0;title\x07",
    "a\nevent=admitted node=root", "a\r\nX-Forged: 1", "nul\0nul", "\u202egnp.exe", "zero\u200bwidth",
    '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "&lt;b&gt;", f"$(touch {OUTSIDE})",
    f"`touch {OUTSIDE}`; touch {OUTSIDE}",
)  # fmt: skip
QUICK = 5
"""The first ones, which each need a defence of their own."""


@no_waiting_for_the_disk()
def run(*, full: bool, scratch: Path) -> Row:
    names = NAMES if full else NAMES[:QUICK]
    plain = _tags(_page(scratch / "plain", "plain", "plain"))
    complaints = [
        _tried(scratch, f"{kind}-{number}", kind, name, plain) for kind in KINDS for number, name in enumerate(names)
    ]
    return Row.of("hostile names", complaints, least=100 if full else 20, kinds=len(KINDS), names=len(names))


def _tried(scratch: Path, place: str, kind: str, name: str, plain: set[tuple[str, ...]]) -> str:
    """What is wrong about a name of a kind; empty where nothing is."""
    inside = scratch / "somewhere" / place / "inside"
    inside.mkdir(parents=True)
    before = _tree(scratch, inside)
    try:
        told = list(KINDS[kind](inside, name))
    except Exception as error:
        return f"{kind} {ascii(name)[:40]}: {type(error).__name__}: {error!a}"
    wrong = [why for text in told if (why := _harm(text, plain))]
    if stray := _tree(scratch, inside) - before:
        wrong.append(f"wrote {sorted(stray)[:2]}")
    if any(place.exists() for place in (Path("/") / OUTSIDE, Path.cwd() / OUTSIDE)):
        wrong.append("wrote outside")
    return f"{kind} {ascii(name)[:40]}: {wrong[0]}" if wrong else ""


class _Page(str):
    """Text that is HTML."""


def _harm(text: str, plain: set[tuple[str, ...]]) -> str:
    """What of it a terminal or a browser would take for more than text; empty where nothing."""
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cf") and character != "\n":
            return f"control character {character!a} in {ascii(text)[:300]}"
    if isinstance(text, _Page) and (more := _tags(text) - plain):
        return f"the page has {sorted(more)[:2]}"
    return ""


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[str, ...]] = set()

    def handle_starttag(self, tag, attrs) -> None:
        self.found.add((tag, *sorted(name for name, _ in attrs)))


def _tags(page: str) -> set[tuple[str, ...]]:
    parser = _Tags()
    parser.feed(page)
    return parser.found


def _tree(root: Path, apart_from: Path) -> set[Path]:
    return {path for path in root.rglob("*") if apart_from not in path.parents and path != apart_from}


def _said_by(*arguments: object) -> str:
    out = io.StringIO()
    before, sys.argv = sys.argv, ["plait", *map(str, arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(out):
            main()
    except SystemExit:
        pass
    finally:
        sys.argv = before
    return out.getvalue()


def _ledger(folder: Path, run: str, client: str) -> None:
    """A run's ledger with these names in every place that takes one."""
    fuzz = borrowed_fuzz()
    ledger = Ledger(RunDirectory.create(folder, config_toml="").ledger)
    for line in fuzz.seeds()[0].split(b"\n"):
        event = json.loads(line)
        if event["event"] == "run_started":
            event |= {"name": run, "base": {**event["base"], "name": run}, "config": {**event["config"], "data": run}}
        for key in ("client", "reason", "detail", "rule"):
            if key in event:
                event[key] = client
        if "clients" in event and isinstance(event["clients"], list):
            event["clients"] = [{**each, "client": client, "histogram": {client: 1}} for each in event["clients"]]
        if "cohort" in event:
            event["cohort"] = [client]
        if "by_client" in event:
            event["by_client"] = {client: {"loss": 2.5, "tokens": 40}}
        ledger.append(parse_event(event))
    ledger.close()


def borrowed_fuzz():
    """The target that makes a whole ledger; it imports its neighbours by name."""
    fuzz = str(Path(__file__).resolve().parents[1] / "fuzz")
    if fuzz not in sys.path:
        sys.path.append(fuzz)
    return borrowed("fuzz/fuzz_report.py")


def _view(folder: Path) -> RunView:
    return RunView.of(read_events(folder / "ledger.jsonl"))


def _page(folder: Path, run: str, client: str) -> _Page:
    _ledger(folder, run, client)
    return _Page(render_html(_view(folder), {key: dict[str, str]() for key in _ALTERNATIVE_TEXTS}, ""))


def _shown(tables: Iterable[Table]) -> str:
    screen = Console(file=io.StringIO(), width=200)
    for table in tables:
        screen.print(to_rich(table))
    return screen.file.getvalue()


def _status(run: str, client: str) -> str:
    node = {"name": client, "doing": client, "ready": True, "device": client}
    cohort = [{"name": client, "state": client}]
    return _shown(status_tables({"run": run, "state": client, "nodes": [node], "cohort": cohort, "late": [client]}))


def _client(inside: Path, name: str) -> Iterator[str]:
    """A client that calls itself so: in a run, at the server's door, in a kit, dealt out by a column."""
    records = [Record(text=f"{each} {number}", columns={"author": each}) for each in (name, "b") for number in range(9)]
    dealt = partition(
        Dataset.of("d", RecordKind.TEXT, records), parse_partition("natural:author"), clients=2, seed=0
    )  # fmt: skip
    yield from (share.name for share in dealt.shares)
    federation = signed(
        inside / "run", {"alice": FakeModel(1.0, 3), name: FakeModel(2.0, 3)}, may_be_away=(name,), rounds=1
    )
    try:
        federation.run()
    except PlaitError as error:
        yield str(error)
    (inside / "run" / "ledger.jsonl").rename(inside / "federation.jsonl")
    yield json.dumps([path.name for path in (inside / "run").rglob("*")])
    yield _page(inside / "report", "run", name)
    yield _shown(report_tables(_view(inside / "report")))
    yield _status("run", name)
    yield _said_by("provision", inside / "fed", "--clients", name, "--server-name", "localhost")
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    LOGGER.addHandler(handler)
    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    try:
        with NodesChannel("127.0.0.1:0", kit=None, limits=Limits(max_answer_bytes=1 << 20)).begin(
            Terms(7, {}, b""), inbox=inside / "inbox"
        ) as channel:
            helper = borrowed("server/conftest.py")
            with suppress(grpc.RpcError, StopIteration):  # the server hangs up
                node = helper.BareNode(channel.address, name)
                node.enrol()
                node.leave()
            other = helper.BareNode(channel.address, "ada")
            other.enrol()
            other.say(ready=pb.Ready(device=name, methods=[name]))
            other.say(progress=pb.Progress(task_id=name, doing=name))
            helper.waiting.until(lambda: channel.nodes(0))
            other.leave()
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
    lines = log.getvalue().splitlines()
    yield from lines
    if not all(line.startswith("event=") for line in lines) or "event=admitted node=root" in lines:
        yield "\x00 a line of the log was forged"


def _run(inside: Path, name: str) -> Iterator[str]:
    """A run of that name: its ledger, its report, what a server says of it, its directory on the command line."""
    yield _page(inside / "report", name, "ada")
    yield _shown(report_tables(_view(inside / "report")))
    yield _status(name, "ada")
    for verb in ("report", "verify", "resume"):
        yield _said_by(verb, f"{inside}/{name}".replace("\0", ""))
    screen = io.StringIO()
    work = pb.Work(task_id=name, message_type=name, group_id=name, head=b"h")
    try:
        task = ClientTask.from_work(work)
    except PlaitError as error:
        Journal(Style.LINES, screen).report("lost", str(error))
    else:
        Journal(Style.LINES, screen).report("task", task.doing)
    yield screen.getvalue()


def _adapter(inside: Path, name: str) -> Iterator[str]:
    """An adapter of that name: on its card, in its configuration, on the command line."""
    spec, initial = FakeModel(0, 1).prepare(of_numbers.spec_text())
    base = BaseReference(name, None, "ab" * 32)
    card = model_card(name=name, spec=spec, base=base, facts={"rounds": 1, "clients": 2})
    yield _Page(card.partition("\n---\n")[2])
    yield card
    save_peft_directory(inside / "adapter", spec=spec, state=initial, base=base, card=card)
    try:
        yield json.dumps(load_peft_directory(inside / "adapter").base_name)
    except PlaitError as error:
        yield str(error)
    for arguments in (
        ("export", inside / "adapter", inside / "out", "--to", "peft", "--served-base", name),
        ("eval", "--adapter", f"{inside}/{name}".replace("\0", ""), "--data", inside / "none.jsonl"),
    ):
        yield _said_by(*arguments)


def _tensor(inside: Path, name: str) -> Iterator[str]:
    """A tensor of that name: in an adapter's file, in a layout, in what is written from it."""
    data = bytes(24)
    header = {name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    text = json.dumps(header).encode()
    folder = inside / "adapter"
    spec, initial = FakeModel(0, 1).prepare(of_numbers.spec_text())
    base = BaseReference("tiny", None, "ab" * 32)
    save_peft_directory(folder, spec=spec, state=initial, base=base, card="")
    (folder / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    for attempt in (
        lambda: load_peft_directory(folder),
        lambda: AdapterState.zeros(Layout.of({name: (2, 3)})),
        lambda: _saved_again(inside / "again", name),
    ):
        try:
            attempt()
        except (PlaitError, ValueError) as error:
            yield str(error)
    yield _said_by("export", folder, inside / "out", "--to", "peft")
    yield _said_by("eval", "--adapter", folder, "--data", inside / "none.jsonl")


def _saved_again(folder: Path, name: str) -> None:
    folder.mkdir()
    write_safetensors(folder / "w.safetensors", dict(AdapterState.zeros(Layout.of({name: (2, 3)})).items()))
    read_safetensors(folder / "w.safetensors")


KINDS: Mapping[str, Callable[[Path, str], Iterator[str]]] = {
    "client": _client, "run": _run, "adapter": _adapter, "tensor": _tensor,
}  # fmt: skip

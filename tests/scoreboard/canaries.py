"""No record's text leaves: a word in every field of every kind of record is looked for in all that runs write and say.

Simulations of the user's own data, and deployments of the same over gRPC, whose bytes a proxy hears. Names of clients,
and the classes that a run declares, are no text of records. Every run has one kind of record; a deployment's `eve` has
in addition what makes it refuse: a class that nobody declared, or too little.
"""

import contextlib
import io
import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scoreboard.network import Proxy
from scoreboard.row import Row

import plait
from plait.cli.report import export_figures
from plait.cli.serving import log_to
from plait.errors import PlaitError
from plait.evidence.bundle import bundle_of, page_of
from plait.evidence.envelope import Signer
from plait.page.feed import Feed
from plait.plugins import admit
from plait.report.summary import write_report
from plait.rounds.run_directory import RunDirectory
from tests import waiting
from tests.attending import attend

CANARY, FILE = b"zxcanary", "zxfile"
_WORD = CANARY.decode()
_SMALL: Mapping[str, Any] = {
    "base": "tiny", "rounds": 1, "local_steps": 1, "batch_size": 2, "seq_len": 64, "rank": 2, "learning_rate": 1e-2,
    "dtype": "float32",
}  # fmt: skip
_NAMES = ("ada", "bob", "eve")


def _chat(number: int) -> dict[str, object]:
    roles = ("system", "user", "assistant")
    return {"messages": [{"role": role, "content": f"{_WORD} {role} {number}"} for role in roles]}


KINDS: Mapping[str, Callable[[int], dict[str, object]]] = {
    "text": lambda number: {"text": f"{_WORD} text {number} " * 9},
    "prompt": lambda number: {"prompt": f"{_WORD} asks {number}", "completion": f"{_WORD} answers {number} " * 5},
    "chat": _chat,
    "label": lambda number: {"text": f"{_WORD} text {number} " * 4, "label": ("aye", "nay")[number % 2]},
    "preference": lambda number: {
        "prompt": f"{_WORD} asks {number}", "chosen": f"{_WORD} yes {number}", "rejected": f"{_WORD} no {number}"
    },
    "reward": lambda number: {"prompt": f"{_WORD} asks {number}", "completion": f" {_WORD}{number % 3}"},
}  # fmt: skip
"""Records by kind. A column of the client, one of few values and one of many come to each."""


def score(prompt: str, completion: str, answer: str) -> float:
    """A reward, which sometimes fails with the text in its error."""
    if completion.startswith("e"):
        raise ValueError(prompt + answer)
    return float(len(completion) % 2)


def _records(kind: str, name: str) -> list[dict[str, object]]:
    more = {"author": name, "said": f"{_WORD} said"}
    return [{**KINDS[kind](number), **more, "note": f"{_WORD} note {number}"} for number in range(24)]


def _settings(kind: str) -> dict[str, Any]:
    if kind == "reward":
        reward = {"name": "grpo", "reward": score, "group_size": 2, "max_completion_tokens": 4}
        return {**_SMALL, "objective": reward, "batch_size": 2, "clients": 2}
    return {**_SMALL, "objective": "dpo" if kind == "preference" else "sft"}


def _outputs(run: Path) -> None:
    """Everything that plait makes of a run's directory, into it."""
    export_figures(write_report(run), run, run / "figures")
    says, _ = bundle_of(RunDirectory(run), Signer.of_run(RunDirectory(run), None))
    (run / "evidence").write_text(json.dumps(says) + page_of(says))
    (run / "page").write_bytes(Feed(run).document())


def _simulated(kind: str, folder: Path) -> Iterator[bytes]:
    rows = [row for name in _NAMES for row in _records(kind, name)]
    more = {"clients": 3, "partition": "natural:author", **_settings(kind)}
    result = plait.simulate(rows, out=folder / "run", quiet=False, keep_updates=True, **more)
    _outputs(result.path)
    yield repr(result).encode()
    yield b"".join(event.model_dump_json().encode() for event in result.events)


def _deployed(kind: str, folder: Path) -> Iterator[bytes]:
    log_to(folder / "server.log")
    shares: dict[str, Any] = {}
    for name in _NAMES:
        records = _records(kind, name)
        if name == "eve":
            records = [{**each, "label": _WORD} for each in records] if kind == "label" else records[:1]
        # Beside what is looked at.
        shares[name] = folder.with_name(f"{FILE}-{kind}-{name}.jsonl")
        shares[name].write_text("".join(json.dumps(each) + "\n" for each in records))
    heard, metrics = bytearray(), f"127.0.0.1:{waiting.unused_port()}"

    def look(_event: object) -> None:
        with urllib.request.urlopen(f"http://{metrics}/metrics") as page:
            heard.extend(page.read())

    labels = {"labels": "aye,nay"} if kind == "label" else {}
    more = {**_settings(kind), **labels, "clients": 2, "keep_updates": True, "metrics": metrics, "callbacks": [look]}
    with plait.Server(out=folder / "run", insecure=True, quiet=False, **more) as server:
        proxy = Proxy(int(server.address.rpartition(":")[2]), hears=heard.extend)
        unfit = attend(f"127.0.0.1:{proxy.port}", {"eve": shares.pop("eve")}, folder, quiet=False)
        waiting.until(lambda: b"unfit" in (folder / "server.log").read_bytes() or b"eve" in heard, patience_s=60)
        clients = attend(f"127.0.0.1:{proxy.port}", shares, folder, quiet=False)
        result = server.wait(timeout_s=300)
        for client in (*clients, *unfit):
            with contextlib.suppress(PlaitError):
                client.wait(timeout_s=60)
        proxy.close()
    _outputs(result.path)
    yield bytes(heard)
    assert b"eve" in heard, "nothing was heard"


WAYS = {"simulation": _simulated, "deployment": _deployed}


def _complaint(way: str, kind: str, scratch: Path) -> str:
    folder = scratch / f"{way}-{kind}" / "seen"
    folder.mkdir(parents=True)
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
        said = list(WAYS[way](kind, folder))
    words = (CANARY, FILE.encode()) if way == "deployment" else (CANARY,)
    for place, data in (
        *((str(path.relative_to(folder)), path.read_bytes()) for path in folder.rglob("*") if path.is_file()),
        ("terminal", screen.getvalue().replace(str(folder), "").encode()),
        *((f"said {number}", each) for number, each in enumerate(said)),
    ):
        # A client's own state and terminal may name its own file.
        own = place == "terminal" or place.startswith("state/")
        if found := next((word for word in words[: 1 if own else 2] if word in data), None):
            at = data.index(found)
            return f"{way} of {kind}: {place} has {data[max(0, at - 40) : at + 40]!r}"
    return ""


def run(*, full: bool, scratch: Path) -> Row:
    """All kinds, or three."""
    admit("scoreboard.canaries:score")
    kinds = tuple(KINDS) if full else ("chat", "label", "reward")
    complaints = [_complaint(way, kind, scratch) for kind in kinds for way in WAYS]
    return Row.of("records that leave", complaints, least=6, kinds=len(kinds))

"""Directories from strangers: whatever a run or an adapter names, a verb runs, downloads and publishes nothing.

The attacker writes every byte of the directory and chains the ledger anew. The victim gives it to a verb and names
nothing else. No code of the attacker's may be imported, no connection made or awaited, no program started, no file
written outside the directory, what the verb is to write, and plait's cache. Each case is `plait` in a process of its
own.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scoreboard.row import Row, one_in
from scoreboard.strangers import SENT, stranger_server, visit_page, visitors

from plait.config import TABLES
from tests.commands import run_command

TESTS = Path(__file__).resolve().parents[1]
LACKS_DEFENCE = "PLAIT_SCOREBOARD_WITHOUT" in os.environ
LIMIT_S = 40 if LACKS_DEFENCE else 180
HUB, PLACE = "somebody/their-model", "http://127.0.0.1:9"
_PROGRAM = f"""
import sys
sys.dont_write_bytecode = True  # compiled modules would count as written elsewhere
sys.path[:0] = {[str(TESTS), str(TESTS.parent)]!r}
from scoreboard.mutations import take_out_named
take_out_named()
from scoreboard.directories import watched
watched()
"""
# Each alone notices that a defence is missing.
_ALWAYS = {
    "resume: rule is code", "resume: publish edited", "resume: served with metrics",
    "eval: a base of the hub", "simulate --config RUN/config.toml: rule", "report: adapter is a link",
    "export: adapter_config.json is a pipe", "report: an endless line", "live: the summary is a pipe",
    "fetch: code", "fetch: huge",
}  # fmt: skip
_EVIL = "open('ran', 'a').write('evil')\ndef part(*given, **named):\n    open('ran', 'a').write('called')\n"
# What plait itself starts: the compiler of its kernels, and what tells the machine.
_OWN_PROGRAMS = ("c++", "uname", "ldconfig", "lscpu", "file", "/sbin/ldconfig")

Attack = Callable[[Path], None]


@dataclass(frozen=True)
class Case:
    """A directory that a verb is given."""

    name: str
    verb: str  # with {run} for the directory, {new} and {data} for others of the victim's, {server} for a stranger's
    attack: Attack  # makes it of a copy of a finished run
    refused: str  # a part of the error's text; empty if the verb does what it is for, harmlessly


def rewritten(**settings: object) -> Attack:
    """Other settings, in the ledger and in config.toml; the ledger is not finished."""

    def attack(run: Path) -> None:
        given = {key.replace("_", "-"): value for key, value in settings.items()}
        lines = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
        lines = [line for line in lines if given.get("finished") or line["event"] not in ("run_finished", "published")]
        given.pop("finished", None)
        lines[0]["config"] |= given
        lines[0]["plugins"] = []
        _chain(run, lines)
        _config(run, **given)

    return attack


def finished(**settings: object) -> Attack:
    """The same, of a run that is over."""
    return rewritten(finished=True, **settings)


def edited(**settings: object) -> Attack:

    def attack(run: Path) -> None:
        _config(run, **{key.replace("_", "-"): value for key, value in settings.items()})

    return attack


def unfinished(run: Path) -> None:
    """The ledger ends before the run does, as after a kill."""
    lines = (run / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    last = next(
        number for number, line in enumerate(lines) if json.loads(line)["event"] in ("published", "run_finished")
    )
    (run / "ledger.jsonl").write_bytes(b"".join(lines[:last]))


def _chain(run: Path, lines: list[dict[str, object]]) -> None:
    previous, text = "0" * 64, b""
    for number, line in enumerate(lines):
        line |= {"seq": number, "prev": previous}
        line.pop("hash", None)
        previous = hashlib.sha256(_canonical(line)).hexdigest()
        text += _canonical(line | {"hash": previous}) + b"\n"
    (run / "ledger.jsonl").write_bytes(text)


def _canonical(line: Mapping[str, object]) -> bytes:
    return json.dumps(line, separators=(",", ":"), sort_keys=True).encode()


def _config(run: Path, **settings: object) -> None:
    """Other values, each where config.toml has its key, or in the table of the feature whose it is."""
    lines = (run / "config.toml").read_text().splitlines()
    keys = [line.partition(" = ")[0] for line in lines]
    told = [
        f"{key} = {json.dumps(settings[key])}" if key in settings else line
        for key, line in zip(keys, lines, strict=True)
    ]
    for key in settings.keys() - set(keys):
        (table,) = (each.table for each in TABLES if key.replace("-", "_") in each.model_fields)
        header = f"[{table}]"
        if header not in told:
            told.append(header)
        told.insert(told.index(header) + 1, f"{key} = {json.dumps(settings[key])}")
    (run / "config.toml").write_text("\n".join(told) + "\n")


def served(**changed: object) -> Attack:
    """A run that a server goes on with."""

    def attack(run: Path) -> None:
        rewritten(data="", partition="")(run)
        table = {"listen": "127.0.0.1:0", "kit": "", "metrics": "", "grace-s": 30.0, "run-number": 7, **changed}
        (run / "server.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))

    return attack


def named_base(base: str, *, stated: bool = False) -> Attack:
    """An adapter of another base, without the fingerprint of one, as PEFT itself writes it."""

    def attack(run: Path) -> None:
        from plait.adapters.peft_reading import load_peft_directory
        from plait.adapters.safetensors import encode_arrays

        folder = run / "adapter"
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": base}))
        if not stated:
            tensors = load_peft_directory(folder).tensors
            (folder / "adapter_model.safetensors").write_bytes(encode_arrays(tensors, {"format": "pt"}))

    return attack


def linked(name: str, *, folder: bool = True) -> Attack:
    """A part of the run is a link to a place of the victim's."""

    def attack(run: Path) -> None:
        outside = run.parent / "outside"
        outside.mkdir(exist_ok=True)
        if (run / name).is_dir():
            shutil.move(run / name, outside / name)
        (run / name).unlink(missing_ok=True)
        if not folder:
            (outside / name).write_text("{}")
        (run / name).symlink_to(outside / name if (outside / name).exists() else outside)

    return attack


def piped(name: str) -> Attack:
    """A part of the run is a pipe without a writer."""

    def attack(run: Path) -> None:
        (run / name).unlink(missing_ok=True)
        os.mkfifo(run / name)

    return attack


def emptied(attack: Attack) -> Attack:
    """Nothing of a run, but for what the attack leaves."""

    def made(run: Path) -> None:
        shutil.rmtree(run)
        run.mkdir()
        attack(run)

    return made


def torn(run: Path) -> None:
    """Killed while it wrote its first event."""
    line = (run / "ledger.jsonl").read_bytes()
    (run / "ledger.jsonl").write_bytes(line[:100])
    shutil.rmtree(run / "adapter")
    for file in (*run.glob("*.png"), run / "report.html", run / "summary.json"):
        file.unlink()
    shutil.rmtree(run / "clients")
    shutil.rmtree(run / "spool")


def long_line(run: Path) -> None:
    """A first line of 300 MiB that takes no space on disk."""
    with (run / "ledger.jsonl").open("r+b") as file:
        file.truncate(300 << 20)


def both(*attacks: Attack) -> Attack:

    def attack(run: Path) -> None:
        for each in attacks:
            each(run)

    return attack


NO_FILE = "not a regular file"
NAME_IT, CHANGED, NOT_HERE = "add --allow", "the file was changed after the run began", "is not on this disk"
WATCH, FETCH = (
    "report {run} --live --listen 127.0.0.1:0",
    "fetch NAME {new} --server {server} --max-gb 0.01",
)
BEGIN = "simulate --data {data} --base tiny --clients 2 --rounds 1 --local-steps 1 --seq-len 32 --rank 2 --out {run}"
OF_A_RUN = "none of a run directory"
FETCHED: Mapping[str, str] = {
    "honest": "", "outside": OF_A_RUN, "absolute": OF_A_RUN, "code": OF_A_RUN, "hidden": OF_A_RUN, "deep": OF_A_RUN,
    "weights that run": OF_A_RUN, "huge": "has more than 0.01 GB",
    "many": "more than 256 files",
    "nothing": "sent no files",
}  # fmt: skip
RESUME, EVAL = "resume {run}", "eval --adapter {run} --data {data}"
PARTS: Mapping[str, str] = {
    "rule": "evil:part", "loss": "evil:part", "objective": "evil:part", "bits": "evil:part", "method": "evil:part",
    "server-optimizer": "evil:part", "trainer": "evil:part", "partition": "evil:part", "callbacks": "evil:part",
}  # fmt: skip
# What measures none cannot follow one.
NO_SLOPE = {"trainer": {"lr_schedule": "constant"}}
OUT: Mapping[str, str] = {
    "data": "http.server:test", "publish": PLACE, "fleet": "/etc/hostname", "init-adapter": "/etc",
    "base": HUB, "callbacks": "wandb",
}  # fmt: skip


def cases() -> list[Case]:
    return [
        *(
            Case(f"resume: {key} is code", RESUME, rewritten(**{key: value, **NO_SLOPE.get(key, {})}), NAME_IT)
            for key, value in PARTS.items()
        ),
        *(Case(f"resume: {key} {value}", RESUME, rewritten(**{key: value}), NAME_IT) for key, value in OUT.items()),
        Case(
            "resume: a reward that runs a file", RESUME,
            rewritten(objective="grpo:reward=torch.hub:load:source=local", **NO_SLOPE["trainer"]), NAME_IT,
        ),
        Case("resume: data of the hub", RESUME, rewritten(data="somebody/their-data"), NAME_IT),
        Case("resume: a file of the victim's", RESUME, rewritten(data="/etc/hostname"), NAME_IT),
        Case("resume: published into a directory", RESUME, rewritten(publish="../elsewhere"), NAME_IT),
        *(
            Case(f"resume: {key} edited", RESUME, both(unfinished, edited(**{key: value})), CHANGED)
            for key, value in (("publish", PLACE), ("rule", "evil:part"))
        ),
        *(
            Case(f"{verb.split()[0]}: {key} edited", verb, edited(**{key: value}), CHANGED)
            for verb in ("audit {run}", "verify {run}")
            for key, value in (("publish", PLACE), ("rule", "evil:part"))
        ),
        Case(
            "export: share edited", "export {run} {new} --to peft --client ada", edited(personalize=0.9),
            CHANGED,
        ),
        Case("resume: served on an address", RESUME, served(listen="0.0.0.0:0"), "--allow listen="),
        Case("resume: served with a kit", RESUME, served(kit="/etc"), "--allow kit=/etc"),
        Case("resume: served with metrics", RESUME, served(metrics="127.0.0.1:0"), "--allow metrics="),
        *(
            Case(f"audit: {key}", "audit {run}", finished(**{key: value}), NAME_IT)
            for key, value in (("loss", "evil:part"), ("data", "http.server:test"), ("base", HUB))
        ),
        *(
            Case(f"verify: {key}", "verify {run}", finished(**{key: value}), NAME_IT)
            for key, value in (("rule", "evil:part"), ("base", HUB), ("init-adapter", "/etc"))
        ),
        Case("eval: an objective that is code", EVAL, finished(objective="evil:part"), "--objective evil:part"),
        Case("eval: a base of the hub", EVAL, named_base(HUB), NOT_HERE),
        Case("eval: a base of nobody's home", EVAL, named_base("~nobody-here/model"), "~nobody-here/model"),
        Case("export: a base of the hub", "export {run} {new} --to merged", named_base(HUB), NOT_HERE),
        *(
            Case(
                f"simulate --config RUN/config.toml: {key}", "simulate --config {run}/config.toml --out {new}",
                finished(**{key: value}), f"--{key} {value}",
            )
            for key, value in (("rule", "evil:part"), ("publish", PLACE), ("base", HUB))
        ),
        *(
            Case(f"report: {name} is a link", "report {run}", linked(name), "leads out of it")
            for name in ("adapter", "checkpoints", "clients", "personalized")
        ),
        Case("resume: a checkpoint is a link", RESUME, both(rewritten(), linked("checkpoints")), "leads out of it"),
        Case("report: the summary is a link", "report {run}", linked("summary.json", folder=False), "leads out of it"),
        Case("report: the ledger is a pipe", "report {run}", piped("ledger.jsonl"), "holds no run"),
        Case("verify: the settings are a pipe", "verify {run}", piped("config.toml"), "neither a file nor a folder"),
        *(
            Case(f"export: {name} is a pipe", "export {run}/adapter {new} --to peft", piped(f"adapter/{name}"), NO_FILE)
            for name in ("adapter_config.json", "adapter_model.safetensors", "README.md")
        ),
        Case("report: an endless line", "report {run}", long_line, "has more than 256 MiB"),
        Case("resume: a torn first line", RESUME, torn, "holds no run"),
        Case("report: a torn first line", "report {run}", torn, "holds no run"),
        Case("simulate --out: a torn first line", BEGIN, torn, ""),
        *(
            Case(f"simulate --out: {name} is a link", BEGIN, emptied(linked(name)), "leads out of it")
            for name in ("checkpoints", "config.toml", ".plait")
        ),
        Case("live: code, which it has no use for", WATCH, finished(**{**PARTS, **OUT}), ""),
        Case("live: the summary is a pipe", WATCH, piped("summary.json"), ""),
        Case("live: the adapter is a pipe", WATCH, piped("adapter/adapter_model.safetensors"), ""),
        Case("live: an endless line", WATCH, long_line, ""),
        *(
            Case(f"fetch: {name}", FETCH.replace("NAME", name.replace(" ", "-")), lambda _run: None, refused)
            for name, refused in FETCHED.items()
        ),
        *(
            Case(f"{verb.split()[0]}: code, which it has no use for", verb, finished(**{**PARTS, **OUT}), "")
            for verb in ("report {run}", "compare {run} {run}")
        ),
        Case("privacy: code, which it has no use for", "privacy {run}", finished(**{**PARTS, **OUT}), ""),
        Case("export: code, which it has no use for", "export {run} {new} --to peft", finished(rule="evil:part"), ""),
    ]  # fmt: skip


def watched() -> None:
    """`plait` with the arguments of this process; what it should not do goes to a file, and is not done."""
    allowed, harm, *arguments = sys.argv[1:]
    places = tuple(allowed.split(os.pathsep))
    serves_page = "--live" in arguments

    def note(what: str) -> None:
        with open(os.open(harm, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a") as file:  # noqa: PTH123
            file.write(f"{what}\n")
        raise PermissionError(f"a scoreboard forbids {what}")

    def hear(event: str, given: tuple[object, ...]) -> None:
        if event == "open" and isinstance(given[0], str | bytes) and isinstance(given[2], int):
            writes = given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            path = os.path.realpath(os.fsdecode(given[0]))
            if writes and not path.startswith((*places, harm, "/dev/")):
                note(f"write to {path}")
        elif event == "import" and str(given[0]).partition(".")[0] == "evil":
            note("import of the attacker's module")
        elif event.startswith("socket.") and event.partition(".")[2] in ("connect", "bind", "getaddrinfo", "sendto"):
            # What tells free ports and asyncio's own pairs are none of the attacker's.
            place = given[1] if event == "socket.bind" else None
            # urllib3 looks in this way whether there is IPv6.
            is_own = place == ("::1", 0) or (serves_page and place == ("127.0.0.1", 0))
            if not is_own and threading.get_ident() not in visitors:
                note(f"{event} {given[1:]}")
        elif event == "subprocess.Popen" and Path(str(given[0])).name not in _OWN_PROGRAMS:
            note(f"program {given[0]}")

    if serves_page:
        visit_page(Path(arguments[1]).name, note)
    sys.addaudithook(hear)
    sys.argv = ["plait", *arguments]
    from plait.cli.main import main

    main()


def run(*, full: bool, scratch: Path) -> Row:
    """Every case; in the quick form every fourth and those that alone notice that a defence is missing."""
    environment = {
        **os.environ, "HF_HUB_DISABLE_TELEMETRY": "1",
        **{name: str(scratch / "cache") for name in ("PLAIT_CACHE", "MPLCONFIGDIR")},
        **{name: str(scratch / "tmp") for name in ("TMPDIR", "HOME", "HF_HOME")},
    }  # fmt: skip
    (scratch / "tmp").mkdir()
    made = scratch / "made"
    data = scratch / "my.jsonl"
    texts = [f"{author} counts {number} sheep in a field.\n" * 4 for number in range(30) for author in ("ada", "bob")]
    data.write_text("".join(json.dumps({"text": text, "author": text.partition(" ")[0]}) + "\n" for text in texts))
    honest = [
        "simulate", "--data", data, "--partition", "natural:author", "--clients", 2, "--base", "tiny", "--rounds", 2,
        "--local-steps", 1, "--batch-size", 2, "--seq-len", 32, "--rank", 2, "--keep-updates", "--out", made, "--json",
    ]  # fmt: skip
    without = {key: value for key, value in environment.items() if key != "PLAIT_SCOREBOARD_WITHOUT"}
    begun = run_command(*honest, cwd=scratch, env=without)
    if begun.returncode:
        raise RuntimeError(f"the honest run failed: {begun.stderr[-300:]}")

    def tried(numbered: tuple[int, Case]) -> str:
        number, case = numbered
        folder = scratch / f"{number:02}"
        folder.mkdir()
        (folder / "evil.py").write_text(_EVIL)
        run = folder / "run"
        shutil.copytree(made, run)
        case.attack(run)
        places = {"run": run, "new": folder / "new", "data": data, "server": server}
        allowed = os.pathsep.join(
            map(str, (run, folder / "new", folder / "..new.", folder / ".new.", scratch / "cache", scratch / "tmp"))
        )
        arguments = [word.format(**places) for word in case.verb.split()]
        try:
            done = run_command(
                allowed, folder / "harm", *arguments, cwd=folder, env=environment, program=_PROGRAM, timeout=LIMIT_S
            )
        except subprocess.TimeoutExpired:
            return f"no end after {LIMIT_S} s"
        said = done.stderr.strip()
        if (folder / "harm").exists():
            return (folder / "harm").read_text().splitlines()[0][:200]
        if (folder / "ran").exists():
            return "the attacker's code ran"
        if "Traceback" in said:
            return f"an uncaught error, {said[-200:]}"
        if bool(done.returncode) != bool(case.refused):
            return f"exit code {done.returncode}: {said[-200:] or done.stdout[-200:]}"
        return "" if case.refused in said else f"refused as {said[-250:]!a}, expected '{case.refused}'"

    every = cases()
    assert len({case.name for case in every}) == len(every)
    assert {case.name for case in every} >= _ALWAYS
    assert FETCHED.keys() == SENT.keys()
    if not full:
        every = [case for case in every if case.name in _ALWAYS or (one_in(4, case.name) and not LACKS_DEFENCE)]
    with stranger_server() as server, ThreadPoolExecutor(2) as pool:
        complaints = dict(zip((case.name for case in every), pool.map(tried, enumerate(every)), strict=True))
    verbs = {case.verb.split()[0] for case in every}
    return Row.of(
        "directories from strangers", complaints, least=40 if full else len(_ALWAYS), verbs=len(verbs),
        refused=sum(bool(case.refused) for case in every),
    )  # fmt: skip

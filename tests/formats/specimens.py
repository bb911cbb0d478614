"""Specimens of what plait keeps, and what is read of them.

python tests/formats/specimens.py 0.2    # once, for the release of that version; earlier ones stay as they are
"""

import dataclasses
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from plait.adapters import Layout
from plait.adapters.peft_reading import load_peft_directory
from plait.config import TABLES, RunConfig, config_from_table, key_named, sections, without_tables
from plait.errors import PeerError
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.summary import summarise
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.rounds.run_state import damage_of, finished_in_checkpoint
from plait.settings.table import read_config_table, toml_value
from plait.trust.keys import read_certificate, server_names_of
from plait.trust.kit import ClientKit, ServerKit, StaffKit, read_client_settings
from plait.trust.register import read_clients
from plait.wire.envelope import open_envelope
from plait.wire.messages import decode_reply, decode_task

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MEANINGS = "meanings.json"
WIRE = ("task_train_with_more_settings", "reply_evaluation_metrics", "update_fp32", "update_bf16")


def _settings(file: Path) -> object:
    table = read_config_table(file)
    config_from_table(table)
    return {key_named(key, where=file.name): value for key, value in without_tables(table, where=file.name).items()}


def _ledger(file: Path) -> object:
    view = RunView.of(events := read_events(file))
    return {"events": [each.event for each in events], "summary": summarise(view)}


def _run(folder: Path) -> object:
    directory = RunDirectory.find(folder)
    if any(damage := damage_of(directory.checkpoints).values()):
        raise PeerError(str(damage))
    finished, remembered = finished_in_checkpoint(directory.checkpoints)
    return {
        "settings": recorded_settings(directory).to_table() | {"out": ""},
        "config.toml": _settings(directory.config),
        "checkpoint": {"finished": finished and finished.fields(), "remembered": remembered},
        "summary.json": json.loads((folder / "summary.json").read_bytes()),
    }


def _adapter(folder: Path) -> object:
    found = load_peft_directory(folder)
    told = {"spec": found.spec().digest.hex(), "numbers": found.state.digest().hex(), "base": found.base_here}
    return told | {"provenance": found.provenance, "config": found.config}


def _evidence(file: Path) -> object:
    return _verifier()["checked"](file, file.with_name("run") / "adapter", None)


@cache
def _verifier() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "evidence" / "verify.py"))


def _kit(folder: Path) -> object:
    # A copy in git has lost its permissions.
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    server = ServerKit.load(folder / "server")
    alice, olga = ClientKit.load(folder / "alice"), StaffKit.load(folder / "olga")
    keys = [each.tls.key.decode() for each in (server, alice, olga)]
    names = server_names_of(read_certificate(folder / "server" / "server.crt"))
    own: dict[str, object] = {"register": read_clients(folder / "server" / "clients.json"), "names": names}
    own |= {"token": server.operator_token, "node": alice.node_key.public_bytes}
    return own | {"keys": keys, "members": [read_client_settings(each.directory) for each in (alice, olga)]}


def _wire(folder: Path) -> object:
    layout = Layout.of({"q_proj.lora_A": (2, 3), "q_proj.lora_B": (3, 2)})
    task, reply, *envelopes = (bytes.fromhex((folder / f"{name}.hex").read_text()) for name in WIRE)
    opened = [open_envelope(data, layout=layout) for data in envelopes]
    return {
        "task": decode_task(task, max_bytes=len(task)),
        "reply": decode_reply(reply, max_bytes=len(reply)),
        "updates": [(each.header, each.delta.digest()) for each in opened],
    }


FORMATS: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "settings": ("settings.toml", _settings),
    "ledger": ("run/ledger.jsonl", _ledger),
    "run directory": ("run", _run),
    "adapter": ("run/adapter", _adapter),
    "evidence": ("run.evidence.json", _evidence),
    "kit": ("kit", _kit),
    "wire": ("wire", _wire),
}
"""Of each format the file or folder, and what reads it."""


def meaning(name: str, folder: Path) -> Any:
    """What a specimen of a format says, as JSON."""
    file, read = FORMATS[name]
    return json.loads(json.dumps(read(folder / file), default=_plain))


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


def write(folder: Path) -> None:
    """Make specimens of this version of plait."""
    plait = Path(sys.executable).with_name("plait")
    run = (
        "simulate --base tiny --data chatterbot --clients 2 --rounds 2 --rank 1 --target-modules q_proj "
        "--local-steps 2 --batch-size 2 --seq-len 32 --max-held-out-sequences 4 --samples 0 --threads 1 --out run"
    )
    folder.mkdir()
    for command in (run, "evidence run", "provision kit --clients alice --operators olga --server-name localhost"):
        subprocess.run([plait, *command.split()], cwd=folder, check=True)
    for name in ("clients/alice", "operators/olga"):
        (folder / "kit" / name).rename(folder / "kit" / Path(name).name)
    kept = {"config.toml", "ledger.jsonl", "summary.json", "adapter", "checkpoints"}
    others = [path for path in (folder / "run").iterdir() if path.name not in kept]
    for path in (*others, *(folder / "kit" / name for name in ("authority", "clients", "operators"))):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(folder / "run" / "checkpoints" / "round-000001")
    (folder / "wire").mkdir()
    for name in WIRE:
        shutil.copy(ROOT / "tests" / "vectors" / f"{name}.hex", folder / "wire")
    lines: list[str] = []
    for table, names in sorted(sections(TABLES), key=lambda section: section[0].table):
        lines += [f"[{table.table}]"] if table.table and f"[{table.table}]" not in lines else []
        lines += [f"{name.replace('_', '-')} = {toml_value(getattr(RunConfig(), name))}" for name in names]
    (folder / "settings.toml").write_text("\n".join(lines) + "\n")
    told = {name: meaning(name, folder) for name in FORMATS}
    (folder / MEANINGS).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    write(HERE / sys.argv[1])

"""A federation over gRPC on a real model, signed off: eight clients, five rounds, the bundle, and what checks it.

    python simulations/evidence/signed.py DIR [--base smollm2-135m] [--rounds 5]

Everything is done by the commands that people type, each in a process of its own. The program that checks the bundle
runs in a new virtual environment which has `cryptography` and nothing else. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import copy
import importlib.util
import json
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from plait.features.evidence.envelope import canonical

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ("argparse", "ast", "calendar", "difflib", "doctest", "inspect", "optparse", "pickle")
PLAIT = (str(Path(sys.executable).with_name("plait")),)


def ran(*command: object) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run([*map(str, command)], check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def data_of(name: str, folder: Path) -> Path:
    """One module of Python's standard library, a record per 40 lines."""
    spec = importlib.util.find_spec(name)
    lines = Path((spec and spec.origin) or "").read_text().splitlines(keepends=True)
    path = folder / f"{name}.jsonl"
    records = ("".join(lines[start : start + 40]) for start in range(0, len(lines), 40))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in records))
    return path


def federate(folder: Path, base: str, rounds: int) -> Path:
    """Serve a run to eight clients, each in its own process; returns its directory."""
    kits, run = folder / "kits", folder / "run"
    ran(*PLAIT, "provision", kits, "--clients", ",".join(CLIENTS), "--server-name", "localhost")
    address = free_address()
    server = subprocess.Popen(
        [*PLAIT, "server", "--kit", str(kits / "server"), "--listen", address, "--out", str(run), "--base", base,
         "--clients", str(len(CLIENTS)), "--rounds", str(rounds), "--local-steps", "4", "--batch-size", "4",
         "--seq-len", "128"],
        stdout=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    clients = [
        subprocess.Popen(
            [*PLAIT, "client", "--kit", str(kits / "clients" / name), "--server", address, "--state",
             str(folder / "state"), "--data", str(data_of(name, folder)), "--yes"],
            stdout=subprocess.DEVNULL, cwd=ROOT,
        )
        for name in CLIENTS
    ]  # fmt: skip
    for process in (server, *clients):
        process.wait()
        if process.returncode:
            raise SystemExit(f"{process.args} ended with {process.returncode}")
    return run


def free_address() -> str:
    """Of a port that nothing listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"localhost:{listener.getsockname()[1]}"


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where a document has values."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from leaves(child, (*path, key))
    if not children:
        yield path


def changed(document: Any, path: tuple[str | int, ...]) -> Any:
    """The document with another value there."""
    found = copy.deepcopy(document)
    place = found
    for key in path[:-1]:
        place = place[key]
    was = place[path[-1]]
    place[path[-1]] = not was if isinstance(was, bool) else was + 1 if isinstance(was, int | float) else f"{was}x"
    return found


def accepts(verifier: Any, bundle: bytes, scratch: Path) -> bool:
    """Whether the program accepts a bundle."""
    scratch.write_bytes(bundle)
    try:
        verifier.checked(scratch, None, None)
    except (InvalidSignature, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def main() -> None:
    """Run it once."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--base", default="smollm2-135m")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True)
    run, kits = federate(folder, given.base, given.rounds), folder / "kits"
    statements = [folder / f"{name}.statement.json" for name in CLIENTS]
    for name, place in zip(CLIENTS, statements, strict=True):
        ran(*PLAIT, "attest", "--kit", kits / "clients" / name, "--state", folder / "state", "--out", place,
            "--about-data", f"module {name} of Python's standard library, PSF licence")  # fmt: skip
    bundle, page = folder / "evidence.json", folder / "evidence.html"
    options = [option for place in statements for option in ("--statement", place)]
    ran(*PLAIT, "evidence", run, "--out", bundle, "--html", page, "--kit", kits / "server", *options,
        "--base-licence", "Apache-2.0", "--parts", folder / "parts")  # fmt: skip

    empty = folder / "empty"
    venv.create(empty, with_pip=True)
    ran(empty / "bin/pip", "install", "--quiet", "cryptography")
    (folder / "verify.py").write_bytes((ROOT / "docs/evidence/verify.py").read_bytes())
    said = ran(empty / "bin/python", "-I", folder / "verify.py", bundle, "--adapter", run / "adapter",
               "--authority", kits / "server/ca.crt")  # fmt: skip

    spec = importlib.util.spec_from_file_location("verify", ROOT / "docs/evidence/verify.py")
    assert spec
    assert spec.loader
    verifier = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(verifier)
    envelope = json.loads(bundle.read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    scratch = folder / "changed.json"
    assert accepts(verifier, bundle.read_bytes(), scratch)
    refused = 0
    paths = [*leaves(envelope)]
    others = [changed(envelope, path) for path in paths]
    for path in leaves(statement):
        payload = base64.b64encode(canonical(changed(statement, path))).decode()
        others.append({**envelope, "payload": payload})
    refused = sum(not accepts(verifier, canonical(other) + b"\n", scratch) for other in others)

    ran(sys.executable, "-m", "model_signing", "verify", "certificate", run / "adapter", "--signature",
        folder / "parts/model.sig", "--certificate_chain", kits / "server/ca.crt")  # fmt: skip
    bill = (folder / "parts/bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    figures = statement["predicate"]["figures"]
    print(
        json.dumps(
            {
                "base": given.base, "clients": len(figures["clients"]), "rounds": figures["rounds"],
                "held_out_loss": figures["held_out_loss"], "bundle_bytes": bundle.stat().st_size,
                "verify": said.splitlines(), "fields_changed": len(others), "refused": refused,
                "model_signing": "accepted", "cyclonedx": "valid",
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()

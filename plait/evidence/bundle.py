"""The bundle of a run: one signed statement over the published adapter's files, with its evidence.

Its parts: figures that follow from the ledger, the ledger itself, clients' own statements, certificates, and what the
operator alone says. ``docs/evidence/verify.py`` checks it.
"""

from __future__ import annotations

import base64
import hashlib
import time
import zlib
from collections.abc import Collection, Sequence
from pathlib import Path

import plait
from plait.adapters import Json
from plait.adapters.peft import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE
from plait.errors import ConfigError, PeerError
from plait.evidence.envelope import STATEMENT, Signer, enveloped, opened, statement
from plait.evidence.page import figures
from plait.ledger.ledger import canonical, read_lines
from plait.rounds.run_directory import RunDirectory

KIND = "https://plait.dev/evidence/v1"


def bundle_of(
    directory: RunDirectory, signer: Signer, *, statements: Sequence[Path] = (), base_licence: str = ""
) -> tuple[dict[str, Json], bytes]:
    """The evidence of a finished run: what the bundle says, and its bytes.

    Args:
        statements: files of clients, as ``plait evidence --attest`` writes them.

    Raises:
        ConfigError: the run is not finished, or a statement is of another run, another client, or there twice.
        PeerError: the ledger is broken, or a file is no statement.
        MachineError: something cannot be read.
    """
    lines = read_lines(directory.ledger)
    if not any(line["event"] == "run_finished" for line in lines):
        raise ConfigError(f"'{directory.path}' is not finished, expected a finished run; `plait resume` continues it")
    found = figures(lines)
    if not directory.adapter.is_dir():
        raise ConfigError(f"'{directory.path}' has no adapter, expected one in '{directory.adapter}'")
    paths = [path for name in (CARD_FILE, CONFIG_FILE, WEIGHTS_FILE) if (path := directory.adapter / name).is_file()]
    files: list[Json] = [
        {"name": path.name, "digest": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}} for path in paths
    ]
    told = [
        _statement_in(path, str(lines[0]["run"]), {client["client"] for client in found["clients"]})
        for path in statements
    ]
    if len({client for client, _ in told}) < len(told):
        raise ConfigError("two statements are of one client, expected one of each")
    predicate: dict[str, Json] = {
        "figures": found,
        "ledger": base64.b64encode(zlib.compress(b"".join(canonical(line) + b"\n" for line in lines), 9)).decode(),
        "statements": {client: data.decode().strip() for client, data in sorted(told)},
        "signer": dict(signer.described),
        "operator_says": {"base_licence": base_licence, "made_at": round(time.time()), "made_with": _code()},
    }
    return predicate, enveloped(statement(files, KIND, predicate), signer)


def _statement_in(path: Path, run: str, known: Collection[str]) -> tuple[str, bytes]:
    """Whose statement a file is, and its bytes."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PeerError(f"cannot read '{path}': {error.strerror or error}, expected a client's statement") from error
    said = opened(data, what=f"'{path}'")
    try:
        of, client = said["subject"][0]["digest"]["plaitRun"], said["predicate"]["client"]
        if said["predicateType"] != STATEMENT:
            raise ValueError
    except (LookupError, TypeError, ValueError) as error:
        raise PeerError(f"'{path}' is no client's statement, expected what `plait evidence --attest` wrote") from error
    if of != run:
        raise ConfigError(f"'{path}' is of run {str(of)[:16]}, expected one of run {run[:16]}")
    if client not in known:
        raise ConfigError(f"'{path}' is of {str(client)[:60]!r}, which did not take part in the run")
    return str(client), data


def _code() -> dict[str, Json]:
    """Version and digest of the code that makes the bundle, which may be newer than the run."""
    root = Path(plait.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return {"plait": plait.__version__, "sha256": digest.hexdigest()}

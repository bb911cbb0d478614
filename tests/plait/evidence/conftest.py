"""One real federation over gRPC with kits, and its evidence; what checks it is a program of its own."""

import base64
import copy
import importlib.util
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from client.sent import attested
from plait.evidence.bundle import bundle_of
from plait.evidence.envelope import Signer, enveloped
from plait.ledger.ledger import canonical
from plait.rounds.run_directory import RunDirectory
from plait.trust.keys import read_key
from plait.trust.kit import ClientKit
from plait.trust.provision import provision
from tests.attending import NAMES, SMALL, rows, served, shares_of

Line = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Signed:
    """A run with its kits, its clients' statements and its bundle."""

    run: Path
    kits: Path
    statements: tuple[Path, ...]
    bundle: Path

    @property
    def statement(self) -> dict[str, Any]:
        """What the bundle states."""
        return json.loads(base64.b64decode(json.loads(self.bundle.read_bytes())["payload"]))

    def signed_again(self, statement: object) -> bytes:
        """A bundle with another statement, signed by the operator's own key."""
        return enveloped(statement, Signer.of(read_key(self.kits / "server" / "server.key")))


def federated(folder: Path, kits: Path, **more: object) -> Signed:
    run, state = folder / "run", folder / "state"
    assert served(run, shares_of(rows()), folder, kits=kits, clients=3, **{**SMALL, "local_steps": 1, **more}).finished
    statements = []
    for name in NAMES:
        _, data = attested(ClientKit.load(kits / "clients" / name), state, run="", about_data=f"notes of {name}")
        statements.append(folder / f"{name}.json")
        statements[-1].write_bytes(data)
    directory = RunDirectory.find(run)
    _, data = bundle_of(directory, Signer.of_run(directory, kits / "server"), statements=statements, base_licence="MIT")
    (folder / "bundle.json").write_bytes(data)
    return Signed(run, kits, tuple(statements), folder / "bundle.json")


@pytest.fixture(scope="session")
def kits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("kits")
    provision(place, NAMES, ("localhost",), operators=("olga",), now=datetime.now(UTC))
    return place


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory, kits: Path) -> Signed:
    return federated(tmp_path_factory.mktemp("signed"), kits)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from leaves(child, (*path, key))
    if not children:
        yield path


def changed(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value[:-1] + ("0" if value[-1] != "0" else "1") if value else "x"
        case _:
            return ["x"]


def with_change(document: Any, path: tuple[str | int, ...], *, without: bool = False) -> Any:
    found = copy.deepcopy(document)
    place = found
    for key in path[:-1]:
        place = place[key]
    if without:
        del place[path[-1]]
    else:
        place[path[-1]] = changed(place[path[-1]])
    return found


def packed(lines: list[Line]) -> str:
    return base64.b64encode(zlib.compress(b"".join(canonical(line) + b"\n" for line in lines), 1)).decode()


def verifier_module() -> ModuleType:
    """``docs/evidence/verify.py``."""
    spec = importlib.util.spec_from_file_location("verify", ROOT / "docs/evidence/verify.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def verifier() -> ModuleType:
    return verifier_module()


@pytest.fixture
def refusal(verifier: ModuleType, tmp_path: Path) -> Callable[[bytes], str]:
    """Why a bundle is refused; empty if it is not."""

    def why(data: bytes) -> str:
        (tmp_path / "bundle").write_bytes(data)
        try:
            verifier.checked(tmp_path / "bundle", None, None)
        except Exception as error:
            return str(error) or type(error).__name__
        return ""

    return why

"""A bundle is accepted as it was made; whatever is changed in it is refused."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plait.errors import ConfigError, PeerError
from plait.features.evidence.bundle import bundle_of
from plait.features.evidence.envelope import OWN_KEY, Signing
from plait.features.evidence.page import page_of
from plait.rounds.ledger import canonical
from plait.rounds.run_directory import RunDirectory
from tests.features.conftest import NAMES, rows
from tests.features.evidence.conftest import ROOT, Signed

pytestmark = pytest.mark.slow

OPERATORS_WORD = ("subject", "predicate.operator_says")
"""What no ledger and no client says: the adapter's files are compared where they are given."""


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
        case None:
            return "x"
        case _:
            return ["x"]


def with_change(document: Any, path: tuple[str | int, ...]) -> Any:
    found = copy.deepcopy(document)
    place = found
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = changed(place[path[-1]])
    return found


def test_it_is_accepted_with_cryptography_alone_and_says_what_it_could_not_check(signed: Signed) -> None:
    code = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]; sys.modules['plait'] = None; "
    code += f"sys.argv = {['verify', str(signed.bundle), '--adapter', str(signed.run / 'adapter')]!r}"
    code += f" + ['--authority', {str(signed.kits / 'server/ca.crt')!r}]\n"
    code += (ROOT / "docs/evidence/verify.py").read_text().replace("from __future__ import annotations", "")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("accepted; not checked:"), ran.stderr
    said = ran.stdout.splitlines()[1:]
    assert all("operator" in line for line in said), said
    assert len((ROOT / "docs/evidence/verify.py").read_text().splitlines()) <= 300


def test_every_single_field_that_is_changed_is_refused(signed: Signed, refusal: Callable[[bytes], str]) -> None:
    assert refusal(signed.bundle.read_bytes()) == ""
    envelope, statement = json.loads(signed.bundle.read_bytes()), signed.statement
    for path in leaves(envelope):
        assert refusal(canonical(with_change(envelope, path)) + b"\n"), path
    accepted, count = [], 0
    for path in leaves(statement):
        other = with_change(statement, path)
        as_it_was = {**envelope, "payload": base64.b64encode(canonical(other)).decode()}
        assert refusal(canonical(as_it_was) + b"\n"), path
        count += 1
        if not refusal(signed.signed_again(other)):
            accepted.append(".".join(map(str, path)))
    print(f"{count} fields changed, all refused; {count - len(accepted)} of them also where the operator signs again")
    assert count > 200
    assert [name for name in accepted if not name.startswith(OPERATORS_WORD)] == []


def test_every_single_field_of_the_ledger_is_refused(
    signed: Signed, verifier: ModuleType, refusal: Callable[[bytes], str]
) -> None:
    """The operator signs again, and computes the figures again, but not the chain."""
    statement, count = signed.statement, 0
    lines = verifier.ledger_of(statement["predicate"]["ledger"])
    for index, line in enumerate(lines):
        for path in leaves(line):
            others = [*lines[:index], with_change(line, path), *lines[index + 1 :]]
            packed = verifier.zlib.compress(b"".join(canonical(each) + b"\n" for each in others), 1)
            predicate = statement["predicate"] | {"ledger": base64.b64encode(packed).decode()}
            with contextlib.suppress(KeyError, TypeError, AttributeError):
                predicate["figures"] = verifier.figures(others)
            assert refusal(signed.signed_again(statement | {"predicate": predicate})), (index, path)
            count += 1
    print(f"{count} fields of the ledger changed, all refused")
    assert count > 500


def test_every_field_of_the_ledger_and_of_a_clients_statement_is_covered(
    signed: Signed, verifier: ModuleType, refusal: Callable[[bytes], str]
) -> None:
    """An operator that writes the whole ledger anew cannot change what clients have signed."""
    statement = signed.statement
    lines = verifier.ledger_of(statement["predicate"]["ledger"])
    update = next(index for index, line in enumerate(lines) if line["event"] == "update_received")

    def rewritten(**changes: object) -> bytes:
        others, before = copy.deepcopy(lines), "0" * 64
        others[update] |= changes
        for line in others:
            line["prev"] = before
            line["hash"] = before = verifier._sha256(
                canonical({key: value for key, value in line.items() if key != "hash"})
            )
        predicate = copy.deepcopy(statement["predicate"])
        packed = verifier.zlib.compress(b"".join(canonical(line) + b"\n" for line in others))
        predicate["ledger"] = base64.b64encode(packed).decode()
        predicate["figures"] = verifier.figures(others)
        return signed.signed_again(statement | {"predicate": predicate})

    assert refusal(rewritten(wall_s=1.0)) == ""
    was = lines[update]
    changes = {
        "examples": was["examples"] + 1, "train_loss": 0.5, "client": "bob" if was["client"] != "bob" else "ada",
        "round": 2, "uplink_bytes": was["uplink_bytes"] + 100_000, "learning_rate": 9.0,
    }  # fmt: skip
    for key, value in changes.items():
        assert refusal(rewritten(**{key: value})), key


def test_parts_of_two_runs_are_refused(signed: Signed, kits: Path, tmp_path: Path, refusal) -> None:
    from tests.features.evidence.conftest import federated

    other = federated(tmp_path, kits, rounds=1, seed=3)
    ours, theirs = signed.statement, other.statement
    for part in theirs["predicate"]:
        if theirs["predicate"][part] != ours["predicate"][part] and f"predicate.{part}" not in OPERATORS_WORD:
            mixed = ours | {"predicate": ours["predicate"] | {part: theirs["predicate"][part]}}
            assert refusal(signed.signed_again(mixed)), part
    directory = RunDirectory.find(signed.run)
    with pytest.raises(ConfigError, match=r"is of run .*, expected one of run"):
        bundle_of(directory, Signing.of(directory, kits / "server"), statements=other.statements[:1])


def test_the_adapters_files_are_those_of_the_bundle(signed: Signed, verifier: ModuleType, tmp_path: Path) -> None:
    for file in (signed.run / "adapter").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    verifier.checked(signed.bundle, tmp_path, None)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(ValueError, match="not the file of the bundle"):
        verifier.checked(signed.bundle, tmp_path, None)
    # The operator signs a bundle about the other file: the ledger says otherwise.
    statement = signed.statement
    for each in statement["subject"]:
        each["digest"]["sha256"] = verifier._sha256((tmp_path / each["name"]).read_bytes())
    (tmp_path / "again").write_bytes(signed.signed_again(statement))
    with pytest.raises(ValueError, match=r"numbers are not|of other files"):
        verifier.checked(tmp_path / "again", tmp_path, None)


def test_another_federations_certificate_is_refused(signed: Signed, verifier: ModuleType, tmp_path: Path) -> None:
    from datetime import UTC, datetime

    from plait.trust.provision import provision

    provision(tmp_path / "other", ["x"], ["localhost"], now=datetime.now(UTC))
    with pytest.raises(ValueError, match="of another federation"):
        verifier.checked(signed.bundle, None, tmp_path / "other/server/ca.crt")


def test_clients_state_what_left_them(signed: Signed) -> None:
    predicate = signed.statement["predicate"]
    for name in NAMES:
        said = json.loads(base64.b64decode(json.loads(predicate["statements"][name])["payload"]))["predicate"]
        (told,) = [client for client in predicate["figures"]["clients"] if client["client"] == name]
        assert (said["messages"], said["bytes"]) == (told["messages"], told["uplink_bytes"])
        assert len(said["updates"]) == told["signed"] == 2
        assert len(said["consent"]) == len(said["policy"]) == 64
        assert "update: delta" in said["fields"]
        assert not any("text" in field for field in said["fields"])


def test_a_simulation_is_signed_by_a_key_of_its_own_which_identifies_no_one(
    tmp_path: Path, verifier: ModuleType
) -> None:
    import plait

    plait.simulate(rows(), out=tmp_path / "run", base="tiny", partition="natural:author", clients=3, rounds=1,
                   local_steps=1, batch_size=2, seq_len=32, dtype="float32", quiet=True)  # fmt: skip
    directory = RunDirectory.find(tmp_path / "run")
    made = bundle_of(directory, Signing.of(directory, None))
    (tmp_path / "bundle").write_bytes(made.data)
    assert (tmp_path / "run" / OWN_KEY).stat().st_mode & 0o077 == 0
    assert any("the key is the run's own" in said for said in verifier.checked(tmp_path / "bundle", None, None))
    page = page_of(made.predicate)
    assert "ada, bob, eve" in page
    assert "http" not in page


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\0\1", b'{"payload": 3}'])
def test_what_is_no_statement_is_refused_in_one_line(signed: Signed, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "statement").write_bytes(content)
    directory = RunDirectory.find(signed.run)
    with pytest.raises(PeerError, match="no signed statement") as refused:
        bundle_of(directory, Signing.of(directory, None), statements=[tmp_path / "statement"])
    assert "\n" not in str(refused.value)


def test_a_bundle_that_is_cut_off_is_refused(signed: Signed, refusal: Callable[[bytes], str]) -> None:
    data = signed.bundle.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 2):
        assert refusal(data[:length])

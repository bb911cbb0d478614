"""A bundle is accepted as it was made; whatever is changed in it is refused."""

import base64
import json
import subprocess
import sys

import pytest

from plait.errors import ConfigError, PeerError
from plait.evidence.bundle import bundle_of, page_of
from plait.evidence.envelope import OWN_KEY, Signer
from plait.ledger.ledger import canonical
from plait.rounds.run_directory import RunDirectory
from plait.wire.welcome import WELCOME_KEYS
from tests.attending import NAMES, rows
from tests.plait.evidence.conftest import ROOT, leaves, packed, with_change

pytestmark = pytest.mark.slow

OPERATORS_WORD = ("subject", "predicate.operator_says")
"""What no ledger and no client says: the adapter's files are compared where they are given."""


def test_it_is_accepted_with_cryptography_alone_and_says_what_it_could_not_check(signed):
    code = f"import sys; sys.path[:] = [p for p in sys.path if p != {str(ROOT)!r}]; sys.modules['plait'] = None; "
    code += f"sys.argv = {['verify', str(signed.bundle), '--adapter', str(signed.run / 'adapter')]!r}"
    code += f" + ['--authority', {str(signed.kits / 'server/ca.crt')!r}]\n"
    code += (ROOT / "docs/evidence/verify.py").read_text().replace("from __future__ import annotations", "")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.startswith("accepted; not checked:"), ran.stderr
    said = ran.stdout.partition("\nthe operator's word")[0].splitlines()[1:]
    assert all("operator" in line or "nothing else happened" in line for line in said), said
    assert "\nthe operator's word" in ran.stdout


def test_every_single_field_that_is_changed_is_refused(signed, refusal):
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


@pytest.mark.parametrize("place", [20, 4000, -400])
def test_a_byte_that_is_changed_is_named_as_a_change(signed, verifier, tmp_path, capsys, place):
    data = bytearray(signed.bundle.read_bytes())
    for other in (0xFF, ord("A" if data[place] != ord("A") else "B")):
        data[place] = other
        (tmp_path / "bundle").write_bytes(data)
        assert verifier.main([str(tmp_path / "bundle")]) == 1
        assert " changed " in capsys.readouterr().err


def test_a_line_that_is_changed_breaks_the_chain(signed, verifier, refusal):
    statement = signed.statement
    lines = verifier.ledger_of(statement["predicate"]["ledger"])
    lines[1]["time"] += 1
    statement["predicate"]["ledger"] = packed(lines)
    assert refusal(signed.signed_again(statement)) == "line 2 of the ledger breaks its chain"


def test_parts_of_two_runs_are_refused(signed, kits, tmp_path, refusal):
    from tests.plait.evidence.conftest import federated

    other = federated(tmp_path, kits, rounds=1, seed=3)
    ours, theirs = signed.statement, other.statement
    for part in theirs["predicate"]:
        if theirs["predicate"][part] != ours["predicate"][part] and f"predicate.{part}" not in OPERATORS_WORD:
            mixed = ours | {"predicate": ours["predicate"] | {part: theirs["predicate"][part]}}
            assert refusal(signed.signed_again(mixed)), part
    directory = RunDirectory.find(signed.run)
    with pytest.raises(ConfigError, match=r"is of run .*, expected one of run"):
        bundle_of(directory, Signer.of_run(directory, kits / "server"), statements=other.statements[:1])


def test_the_adapters_files_are_those_of_the_bundle(signed, verifier, tmp_path):
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


def test_another_federations_certificate_is_refused(signed, verifier, tmp_path):
    from datetime import UTC, datetime

    from plait.trust.provision import provision

    provision(tmp_path / "other", ["x"], ["localhost"], now=datetime.now(UTC))
    with pytest.raises(ValueError, match="of another federation"):
        verifier.checked(signed.bundle, None, tmp_path / "other/server/ca.crt")


def test_clients_state_what_they_agreed_to_and_what_left_them(signed, verifier):
    predicate = signed.statement["predicate"]
    for name in NAMES:
        said = json.loads(base64.b64decode(json.loads(predicate["statements"][name])["payload"]))["predicate"]
        (told,) = [client for client in predicate["figures"]["clients"] if client["client"] == name]
        (agreed,) = said["agreed"]
        assert f"<td>notes of {name}<td>" in page_of(predicate)
        assert agreed["settings"].items() <= predicate["figures"]["made"]["config"].items()
        missing = WELCOME_KEYS - agreed["settings"].keys() - {"server-optimizer"}
        assert missing <= verifier.TOLD  # whose absence from a ledger is a claim too
        assert len(agreed["consent"]) == len(agreed["policy"]) == 64
        messages = [json.loads(line) for line in verifier.lines_of(said["messages"], "messages")]
        assert (len(messages), sum(each["bytes"] for each in messages)) == (told["messages"], told["uplink_bytes"])
        assert sum("signed" in each for each in messages) == told["signed"] == 2
        assert {field for each in messages for field in each["fields"]} >= {"update: delta", "evaluation: loss"}


def test_a_simulation_is_signed_by_a_key_of_its_own_which_identifies_no_one(tmp_path, verifier):
    import plait

    plait.simulate(rows(), out=tmp_path / "run", base="tiny", partition="natural:author", clients=3, rounds=1,
                   local_steps=1, batch_size=2, seq_len=32, dtype="float32", quiet=True)  # fmt: skip
    directory = RunDirectory.find(tmp_path / "run")
    says, data = bundle_of(directory, Signer.of_run(directory, None))
    (tmp_path / "bundle").write_bytes(data)
    assert (tmp_path / "run" / OWN_KEY).stat().st_mode & 0o077 == 0
    assert any("the key is the run's own" in said for said in verifier.checked(tmp_path / "bundle", None, None)[0])
    page = page_of(says)
    assert "ada, bob, eve" in page
    assert "http" not in page


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\0\1", b'{"payload": 3}'])
def test_what_is_no_statement_is_refused_in_one_line(signed, content, tmp_path):
    (tmp_path / "statement").write_bytes(content)
    directory = RunDirectory.find(signed.run)
    with pytest.raises(PeerError, match="no signed statement") as refused:
        bundle_of(directory, Signer.of_run(directory, None), statements=[tmp_path / "statement"])
    assert "\n" not in str(refused.value)


def test_a_bundle_that_is_cut_off_is_refused(signed, refusal):
    data = signed.bundle.read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 2):
        assert refusal(data[:length])

import json
from dataclasses import replace

import pytest

from plait.errors import ConfigError
from plait.trust.keys import NodeKey, Role
from plait.trust.register import Register, RegisteredClient, Verdict, read_clients, write_clients


@pytest.fixture
def path(tmp_path):
    return tmp_path / "clients.json"


@pytest.fixture
def alice(now):
    return RegisteredClient("alice", NodeKey.generate().public_bytes, now, None)


@pytest.fixture
def bob(now):
    return RegisteredClient("bob", NodeKey.generate().public_bytes, now, revoked=now)


def test_what_is_written_is_read_back(path, alice, bob):
    for clients in ((), (alice,), (bob, alice)):
        write_clients(path, clients)
        assert read_clients(path) == clients


def test_the_file_is_json_of_the_documented_form_one_client_a_line(path, alice, bob):
    write_clients(path, [alice, bob])
    text = path.read_text()
    stamp = alice.provisioned.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert json.loads(text) == {
        "clients": [
            {"name": "alice", "public_key": alice.public_key.hex(), "provisioned": stamp, "revoked": None},
            {"name": "bob", "public_key": bob.public_key.hex(), "provisioned": stamp, "revoked": stamp},
        ]
    }
    assert len([line for line in text.splitlines() if "public_key" in line]) == 2


def test_a_role_other_than_a_clients_is_written_and_read_back(path, alice, now):
    olga = RegisteredClient("olga", b"o" * 32, now, None, role=Role.OPERATOR)
    write_clients(path, [alice, olga])
    assert read_clients(path) == (alice, olga)
    assert [line.get("role") for line in json.loads(path.read_text())["clients"]] == [None, "operator"]
    path.write_text(path.read_text().replace('"operator"', '"root"'))
    with pytest.raises(ConfigError, match=r"role of client 1 in .* is 'root', expected one of client, operator"):
        read_clients(path)


def test_a_verdict_for_every_name_and_key(path, alice, bob, tmp_path):
    write_clients(path, [alice, bob])
    register = Register.load(tmp_path)
    assert register.check("alice", alice.public_key) is Verdict.KNOWN
    assert register.check("Alice", alice.public_key) is Verdict.WRONG_NAME
    assert register.check("bob", alice.public_key) is Verdict.WRONG_NAME
    assert register.check("bob", bob.public_key) is Verdict.REVOKED_KEY
    assert register.check("alice", bob.public_key) is Verdict.REVOKED_KEY
    assert register.check("alice", NodeKey.generate().public_bytes) is Verdict.UNKNOWN_KEY
    assert register.check("", b"") is Verdict.UNKNOWN_KEY


def test_a_list_that_has_become_unreadable_admits_no_one(path, alice, tmp_path):
    write_clients(path, [alice])
    register = Register.load(tmp_path)
    path.write_text("{")
    for _ in range(2):
        with pytest.raises(ConfigError, match="is not JSON"):
            register.check("alice", alice.public_key)
    path.unlink()
    with pytest.raises(ConfigError, match="is missing"):
        register.check("alice", alice.public_key)
    write_clients(path, [alice])
    assert register.check("alice", alice.public_key) is Verdict.KNOWN


def test_a_key_twice_or_a_name_with_two_keys_that_hold_is_refused(path, alice, now):
    for clients, message in (
        ([alice, replace(alice, name="eve")], "key of 'eve' is listed twice"),
        ([alice, RegisteredClient("ALICE", bytes(32), now, None)], "'ALICE' has two valid keys"),
    ):
        write_clients(path, clients)
        with pytest.raises(ConfigError, match=message):
            read_clients(path)


_GOOD = {"name": "a", "public_key": "00" * 32, "provisioned": "2026-01-31T12:00:00Z", "revoked": None}


@pytest.mark.parametrize(
    "line",
    [
        1, {}, {**_GOOD, "more": 1}, {**_GOOD, "name": 1}, {**_GOOD, "name": "../a"},
        {**_GOOD, "public_key": "00" * 31},
        {**_GOOD, "public_key": None}, {**_GOOD, "public_key": "zz" * 32}, {**_GOOD, "provisioned": "yesterday"},
        {**_GOOD, "revoked": False}, {**_GOOD, "revoked": True}, {**_GOOD, "revoked": "2026"},
    ],
)  # fmt: skip
def test_a_line_that_is_not_of_the_form_is_refused(path, line):
    path.write_text(json.dumps({"clients": [line]}))
    with pytest.raises(ConfigError):
        read_clients(path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"clients": 1}', "[" * 100_000, "\xff", '{"clients": [], "clients": []}']
)
def test_a_file_that_is_no_register_is_refused(path, text):
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        read_clients(path)


def test_the_standing_of_a_name_is_that_of_its_best_key_and_follows_the_file(path, alice, bob):
    write_clients(path, [alice, bob])
    register = Register(path)
    names = ("alice", "bob", "carol")
    assert [register.standing(name) for name in names] == [Verdict.KNOWN, Verdict.REVOKED_KEY, Verdict.UNKNOWN_KEY]
    again = RegisteredClient("bob", NodeKey.generate().public_bytes, alice.provisioned, None)
    write_clients(path, [again, replace(alice, revoked=alice.provisioned), bob])
    assert [register.standing(name) for name in names] == [Verdict.REVOKED_KEY, Verdict.KNOWN, Verdict.UNKNOWN_KEY]

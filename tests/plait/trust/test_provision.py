import shutil
import stat
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from plait.errors import ConfigError
from plait.trust.keys import Role, read_certificate, server_names_of, shown_by
from plait.trust.kit import ClientKit, ServerKit, StaffKit
from plait.trust.provision import KitOutcome, provision, revoke
from plait.trust.register import Register, Verdict, read_clients

# The room re-exports a function of the module's name.
ROOM = sys.modules["plait.trust.provision"]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_the_layout_is_the_documented_one_and_secrets_are_closed(kits):
    assert set(contents(kits)) == {
        *(f"authority/{name}" for name in ("ca.key", "ca.crt")),
        *(f"server/{name}" for name in ("server.key", "server.crt", "ca.crt", "clients.json", "operator.token")),
        *(
            f"clients/{client}/{name}"
            for client in ("alice", "bob")
            for name in ("node.key", "client.key", "client.crt", "ca.crt", "kit.toml")
        ),
    }
    for path in kits.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def test_every_kit_loads_and_every_client_is_registered(kits):
    ServerKit.load(kits / "server")
    register = Register.load(kits / "server")
    for name in ("alice", "bob"):
        kit = ClientKit.load(kits / "clients" / name)
        assert register.check(name, kit.node_key.public_bytes) is Verdict.KNOWN


def test_clients_are_added_later_and_nothing_that_was_there_changes(kits, now):
    before = contents(kits)
    made = provision(kits, ["alice", "carol"], [], now=now)
    assert [kit.outcome for kit in made.clients] == [KitOutcome.KEPT, KitOutcome.MADE]
    assert made.server.outcome is KitOutcome.KEPT
    after = contents(kits)
    assert {name for name in before if after[name] != before[name]} == {"server/clients.json"}
    assert [client.name for client in read_clients(kits / "server" / "clients.json")] == ["alice", "bob", "carol"]


def test_the_same_call_again_changes_nothing(kits, now):
    before = contents(kits)
    provision(kits, ["alice", "bob"], ["127.0.0.1", "localhost"], now=now)
    assert contents(kits) == before


def test_a_revoked_client_gets_in_again_only_with_a_new_key(kits, now):
    old = ClientKit.load(kits / "clients" / "bob").node_key.public_bytes
    assert revoke(kits, "bob", now=now).revoked == now
    with pytest.raises(ConfigError, match="is revoked: remove that folder"):
        provision(kits, ["bob"], [], now=now)
    shutil.rmtree(kits / "clients" / "bob")
    new = provision(kits, ["bob"], [], now=now).clients[0].public_key
    register = Register.load(kits / "server")
    assert register.check("bob", old) is Verdict.REVOKED_KEY
    assert register.check("bob", new) is Verdict.KNOWN


def test_revoking_needs_only_the_servers_kit_and_twice_is_once(kits, now):
    shutil.rmtree(kits / "authority")
    shutil.rmtree(kits / "clients")
    first = revoke(kits, "alice", now=now)
    assert revoke(kits, "alice", now=now + timedelta(days=1)) == first
    with pytest.raises(ConfigError, match=r"client 'eve' is not in .*expected one of alice, bob"):
        revoke(kits, "eve", now=now)


def test_a_client_whose_kit_is_elsewhere_gets_no_second_key(kits, now):
    shutil.rmtree(kits / "clients" / "alice")
    with pytest.raises(ConfigError, match="has a key already but no kit"):
        provision(kits, ["alice"], [], now=now)


def test_a_kit_of_another_federation_is_not_taken_in(kits, foreign, now):
    shutil.rmtree(kits / "clients" / "alice")
    shutil.copytree(foreign / "clients" / "alice", kits / "clients" / "alice")
    with pytest.raises(ConfigError, match="is not the registered one of 'alice'"):
        provision(kits, ["alice"], [], now=now)
    shutil.copytree(foreign / "clients" / "bob", kits / "clients" / "eve")
    with pytest.raises(ConfigError, match="is for client 'bob', expected 'eve'"):
        provision(kits, ["eve"], [], now=now)


def test_a_removed_certificate_is_issued_anew_for_the_same_key(kits, now, set_clock):
    old = ClientKit.load(kits / "clients" / "alice")
    later = now + timedelta(days=800)
    (kits / "clients" / "alice" / "client.crt").unlink()
    (kits / "server" / "server.crt").unlink()
    made = provision(kits, ["alice"], ["other.name"], now=later, days=10)
    assert made.server.outcome is made.clients[0].outcome is KitOutcome.RENEWED
    set_clock(later)
    new = ClientKit.load(kits / "clients" / "alice")
    assert new.node_key == old.node_key
    assert new.tls.key == old.tls.key
    assert new.tls.expires == later + timedelta(days=10)
    assert server_names_of(read_certificate(kits / "server" / "server.crt")) == ("other.name",)


def test_a_missing_authority_or_register_is_asked_for_never_made_anew(kits, now):
    away = kits.parent / "away"
    (kits / "authority").rename(away)
    with pytest.raises(ConfigError, match="authority' is missing: restore the authority"):
        provision(kits, ["carol"], [], now=now)
    away.rename(kits / "authority")
    (kits / "server").rename(away)
    with pytest.raises(ConfigError, match="server' is missing: copy the server"):
        provision(kits, ["carol"], ["localhost"], now=now)
    away.rename(kits / "server")
    (kits / "server" / "clients.json").unlink()
    with pytest.raises(ConfigError, match=r"clients.json' is missing"):
        provision(kits, ["carol"], [], now=now)


def test_an_operator_gets_a_kit_of_that_role_and_stands_in_the_register(kits, now):
    made = provision(kits, [], [], operators=["olga"], now=now)
    register, olga = Register.load(kits / "server"), shown_by(StaffKit.load(kits / "operators/olga").tls.certificate)
    assert (olga.name, olga.role, olga.key_digest) == ("olga", Role.OPERATOR, made.staff[0].public_key)
    assert register.holds(Role.OPERATOR, "olga", olga.key_digest) is Verdict.KNOWN
    assert register.holds(Role.OPERATOR, "alice", olga.key_digest) is Verdict.WRONG_NAME
    # No one enrols as a client with a person's key, nor by a person's name.
    assert register.check("olga", olga.key_digest) is Verdict.UNKNOWN_KEY
    assert register.standing("olga") is Verdict.UNKNOWN_KEY
    assert shown_by((kits / "clients" / "alice" / "client.crt").read_bytes()).role is Role.CLIENT

    revoke(kits, "olga", now=now)
    assert register.holds(Role.OPERATOR, "olga", olga.key_digest) is Verdict.REVOKED_KEY
    shutil.rmtree(kits / "operators" / "olga")
    provision(kits, [], [], operators=["olga"], now=now)
    assert register.holds(Role.OPERATOR, "olga", olga.key_digest) is Verdict.REVOKED_KEY
    again = shown_by(StaffKit.load(kits / "operators" / "olga").tls.certificate)
    assert register.holds(Role.OPERATOR, "olga", again.key_digest) is Verdict.KNOWN


def test_a_renewed_certificate_of_an_operator_keeps_its_registered_key(kits, now):
    first = provision(kits, [], [], operators=["olga"], now=now).staff[0]
    (kits / "operators" / "olga" / "operator.crt").unlink()
    (again,) = provision(kits, [], [], operators=["olga"], now=now).staff
    assert (again.outcome, again.public_key) == (KitOutcome.RENEWED, first.public_key)
    assert len(Register.load(kits / "server").clients) == 3


@pytest.mark.parametrize(
    ("clients", "operators", "message"),
    [
        (["Alice"], [], "differs from 'alice' only in case"),
        (["eve", "Eve"], [], "'Eve' differs from 'eve' only in case"),
        (["carol", "../x"], [], "client name is '../x'"),
        ([], ["alice"], "'alice' is a client: give an operator another name"),
        ([], ["Alice"], "differs from 'alice' only in case"),
        ([], ["olga", "olga"], "'olga' is given twice"),
    ],
)
def test_a_bad_name_or_one_with_two_roles_changes_nothing(kits, now, clients, operators, message):
    before = contents(kits)
    with pytest.raises(ConfigError, match=message):
        provision(kits, clients, [], operators=operators, now=now)
    assert contents(kits) == before


def test_a_certificate_of_another_role_in_a_kit_is_refused(kits, now):
    provision(kits, [], [], operators=["olga"], now=now)
    olga, alice = kits / "operators" / "olga", kits / "clients" / "alice"
    for end in ("crt", "key"):
        (olga / f"operator.{end}").write_bytes((alice / f"client.{end}").read_bytes())
    (olga / "kit.toml").write_bytes((alice / "kit.toml").read_bytes())
    with pytest.raises(ConfigError, match="is not an operator's certificate"):
        StaffKit.load(olga)
    with pytest.raises(ConfigError, match="is a client's, expected an operator's: DIR/operators/NAME"):
        StaffKit.load(kits / "clients" / "alice")


@pytest.mark.parametrize("moment", ["authority", "server", "client", "register"])
def test_a_call_that_was_cut_short_is_finished_by_the_same_call(tmp_path, now, monkeypatch, moment):
    names = {
        "authority": "_server_kit",
        "server": "ensure_private_directory",
        "client": "_member_kit",
        "register": "write_clients",
    }
    original = getattr(ROOM, names[moment])
    calls = 0

    def cut(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        # The second call of each: after the first folder, the first kit, the empty register.
        if calls == (1 if moment == "authority" else 2):
            raise KeyboardInterrupt
        return original(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(ROOM, names[moment], cut)
        with pytest.raises(KeyboardInterrupt):
            provision(tmp_path / "kits", ["alice", "bob"], ["localhost"], now=now)
    finished = provision(tmp_path / "kits", ["alice", "bob"], ["localhost"], now=now)
    # Kits that the first call made whole were not in the register yet; what it had not begun is made now.
    whole = {"authority": 0, "server": 0, "client": 1, "register": 2}[moment]
    expected = [KitOutcome.REGISTERED] * whole + [KitOutcome.MADE] * (2 - whole)
    assert [kit.outcome for kit in finished.clients] == expected
    test_every_kit_loads_and_every_client_is_registered(tmp_path / "kits")
    assert list((tmp_path / "kits").rglob(".*")) == []

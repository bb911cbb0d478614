import shutil
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from plait.errors import ConfigError
from plait.trust.keys import NodeKey, read_certificate, read_key
from plait.trust.kit import (
    ClientKit,
    Endorsement,
    ServerKit,
    _signed,
    client_settings,
    is_vouched_for,
    read_client_settings,
)
from plait.trust.provision import provision


def test_a_kit_has_what_its_machine_needs_and_shows_no_secret(kits):
    server, client = ServerKit.load(kits / "server"), ClientKit.load(kits / "clients" / "alice")
    assert read_client_settings(client.directory) == (client.name, ("localhost", "127.0.0.1"))
    assert len(bytes.fromhex(server.operator_token)) == 32
    assert server.tls.authority == client.tls.authority == (kits / "authority" / "ca.crt").read_bytes()
    assert (client.name, client.node_key) == ("alice", NodeKey.load(kits / "clients" / "alice" / "node.key"))
    shown = repr(server) + repr(client)
    assert server.operator_token not in shown
    assert "PRIVATE" not in shown


@pytest.mark.parametrize(
    ("kind", "folder", "names"),
    [(ServerKit, "server", ("server.key", "operator.token")), (ClientKit, "clients/alice", ("node.key", "client.key"))],
)
def test_a_secret_that_others_can_read_is_refused_with_the_command(kits, kind, folder, names):
    for name in names:
        (kits / folder / name).chmod(0o640)
        with pytest.raises(ConfigError, match=rf"chmod 600 .*{name}$"):
            kind.load(kits / folder)
        (kits / folder / name).chmod(0o600)


@pytest.mark.parametrize("name", ["node.key", "client.key", "client.crt", "ca.crt", "kit.toml"])
def test_a_missing_file_of_a_clients_kit_is_named(kits, name):
    (kits / "clients" / "alice" / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}' is missing"):
        ClientKit.load(kits / "clients" / "alice")


def test_the_wrong_folder_is_told_from_a_broken_one(kits, tmp_path):
    with pytest.raises(ConfigError, match="is a client's, expected a server's: DIR/server"):
        ServerKit.load(kits / "clients" / "alice")
    with pytest.raises(ConfigError, match="is a server's, expected a client's: DIR/clients/NAME"):
        ClientKit.load(kits / "server")
    with pytest.raises(ConfigError, match="holds all kits, expected the server's own"):
        ServerKit.load(kits)
    with pytest.raises(ConfigError, match="is not a directory"):
        ServerKit.load(tmp_path / "none")


def test_a_kit_that_has_expired_or_does_not_hold_yet_says_both_dates(kits, now, set_clock):
    set_clock(now + timedelta(days=731))
    with pytest.raises(ConfigError, match=r"client.crt' expired on \d{4}-.* shows \d{4}-.*remove client.crt"):
        ClientKit.load(kits / "clients" / "alice")
    set_clock(now - timedelta(days=2))
    with pytest.raises(ConfigError, match=r"server.crt' is valid from \d{4}-.* shows \d{4}-.*set this machine's clock"):
        ServerKit.load(kits / "server")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("client.key", "client.crt' is not for the key beside it"),
        ("client.crt", "client.crt' is not for the key beside it"),
        ("ca.crt", "not signed by the authority beside it"),
    ],
)
def test_files_of_another_federation_are_refused(kits, foreign, name, message):
    shutil.copy2(foreign / "clients" / "alice" / name, kits / "clients" / "alice" / name)
    with pytest.raises(ConfigError, match=message):
        ClientKit.load(kits / "clients" / "alice")


def test_a_kit_cannot_take_another_clients_name(kits):
    (kits / "clients" / "alice" / "kit.toml").write_bytes(client_settings("bob", ["localhost"]))
    with pytest.raises(ConfigError, match=r"client.crt' is for 'alice', expected 'bob'"):
        ClientKit.load(kits / "clients" / "alice")


@pytest.mark.parametrize(
    "text",
    ["", "name = 1\nserver-names = []", 'name = "a"', 'name = "a"\nserver-names = [1]', "\x00", "\xff",
     'name = "a"\nserver-names = []\nnmae = 1', 'name = "../a"\nserver-names = []'],
)  # fmt: skip
def test_settings_that_are_not_settings_are_refused(tmp_path, text):
    (tmp_path / "kit.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError):
        read_client_settings(tmp_path)


@pytest.mark.parametrize("token", [b"", b"short", b"\xff" * 64, b"z" * 64])
def test_a_token_that_is_none_is_refused(kits, token):
    (kits / "server" / "operator.token").write_bytes(token)
    with pytest.raises(ConfigError, match="is not a token, expected 64 hexadecimal digits"):
        ServerKit.load(kits / "server")


def endorsed(kit, endorsement, *, authority=None, name="alice", key=None, now=None) -> bool:
    own = (authority or kit.tls.authority, name, key or kit.node_key.public_bytes)
    return is_vouched_for(*own, endorsement.certificate, endorsement.signature, now=now)


def signed_with(folder, role, name, key) -> Endorsement:
    """What the holder of any other certificate of the federation can make."""
    signature = read_key(folder / f"{role}.key").sign(_signed(name, key), ec.ECDSA(hashes.SHA256()))
    certificate = read_certificate(folder / f"{role}.crt").public_bytes(serialization.Encoding.DER)
    return Endorsement(certificate, signature)


def test_a_kit_as_it_was_always_made_proves_its_node_key(alice):
    own = Endorsement.of(alice)
    assert endorsed(alice, own)
    assert len(own.certificate) < 700
    assert len(own.signature) <= 72


def test_it_proves_no_other_key_and_no_other_name(alice, kits):
    own, bob = Endorsement.of(alice), ClientKit.load(kits / "clients" / "bob")
    assert not endorsed(alice, own, key=NodeKey.generate().public_bytes)
    assert not endorsed(alice, own, key=bob.node_key.public_bytes)
    assert not endorsed(alice, own, name="bob")
    assert not endorsed(alice, signed_with(bob.directory, "client", "alice", alice.node_key.public_bytes))


def test_only_its_own_federations_authority_counts(alice, foreign):
    theirs = ClientKit.load(foreign / "clients" / "alice")
    assert endorsed(theirs, Endorsement.of(theirs))
    assert not endorsed(theirs, Endorsement.of(theirs), authority=alice.tls.authority)


def test_neither_the_server_nor_an_operator_is_a_client(alice, kits, now):
    """A server with its own certificate, and people with theirs, cannot make up a client."""
    provision(kits, [], [], operators=["olga"], now=now)
    key = NodeKey.generate().public_bytes
    for folder, role, name in (
        (kits / "server", "server", "plait server"),
        (kits / "server", "server", "alice"),
        (kits / "operators" / "olga", "operator", "olga"),
        (kits / "authority", "ca", "alice"),
    ):
        forged = signed_with(folder, role, name, key)
        assert not endorsed(alice, forged, name=name, key=key), name


def test_it_holds_while_the_certificate_does(alice):
    own = Endorsement.of(alice)
    end = read_certificate(alice.directory / "client.crt").not_valid_after_utc
    assert endorsed(alice, own, now=end)
    assert not endorsed(alice, own, now=end + timedelta(seconds=1))


def test_other_bytes_prove_nothing(alice):
    own = Endorsement.of(alice)
    for bad in (
        Endorsement(b"", b""),
        replace(own, signature=b""),
        replace(own, signature=own.signature[:-1]),
        replace(own, certificate=own.certificate[:-1]),
        replace(own, certificate=own.certificate + b"\0"),
        replace(own, certificate=bytes(500)),
    ):
        assert not endorsed(alice, bad)

"""Which node keys the authority stands behind, and which bytes prove nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from plait.trust.certificate import read_certificate, read_key
from plait.trust.endorsement import Endorsement, _signed, is_endorsed
from plait.trust.keys import NodeKey
from plait.trust.kit import ClientKit
from plait.trust.provision import provision


@pytest.fixture
def alice(kits) -> ClientKit:
    return ClientKit.load(kits / "clients" / "alice")


def endorsed(kit, endorsement, *, authority=None, name="alice", key=None, now=None) -> bool:
    return is_endorsed(authority or kit.tls.authority, name, key or kit.node_key.public_bytes, endorsement, now=now)


def signed_with(folder, role, name, key) -> Endorsement:
    """What the holder of any other certificate of the federation can make."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

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

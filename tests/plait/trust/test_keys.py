import base64
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import ConfigError, MachineError
from plait.trust.keys import MAX_FILE_BYTES, NodeKey, key_pem, new_key, read_secret, read_small, verify, write_secret


def test_a_saved_key_loads_as_itself_with_mode_0600(tmp_path):
    key = NodeKey.generate()
    key.save(tmp_path / "node.key")
    assert stat.S_IMODE((tmp_path / "node.key").stat().st_mode) == 0o600
    loaded = NodeKey.load(tmp_path / "node.key")
    assert loaded == key
    assert loaded.sign(b"x") == key.sign(b"x")


def test_a_signature_holds_for_its_key_and_its_bytes_only():
    key, other = NodeKey.generate(), NodeKey.generate()
    signature = key.sign(b"update")
    assert len(key.public_bytes) == 32
    assert len(signature) == 64
    assert verify(key.public_bytes, signature, b"update")
    assert not verify(key.public_bytes, signature, b"updatf")
    assert not verify(other.public_bytes, signature, b"update")
    assert not verify(key.public_bytes, signature[:-1] + bytes([signature[-1] ^ 1]), b"update")


@given(st.binary(max_size=70), st.binary(max_size=70), st.binary(max_size=40))
def test_verify_says_no_to_any_other_bytes(public_key, signature, signed):
    assert verify(public_key, signature, signed) is False


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_what_is_no_key_is_refused(tmp_path, content):
    write_secret(tmp_path / "node.key", content)
    with pytest.raises(ConfigError, match="is not an Ed25519 private key in PEM"):
        NodeKey.load(tmp_path / "node.key")


def test_a_key_of_another_kind_is_refused(tmp_path):
    write_secret(tmp_path / "tls.key", key_pem(new_key()))
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        NodeKey.load(tmp_path / "tls.key")


@pytest.mark.parametrize("kind", [b"\x2b\x65\x71", b"\x2b\x65\x6f"], ids=["Ed448", "X448"])
def test_a_key_that_says_it_is_of_another_kind_than_it_is_long_is_refused(tmp_path, kind):
    # OpenSSL stumbles over it, and not with an error of the usual kinds.
    document = bytes.fromhex("302e020100300506032b657004220420") + bytes(32)
    body = base64.b64encode(document.replace(b"\x2b\x65\x70", kind)).decode()
    path = tmp_path / "node.key"
    path.write_text(f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="private key in PEM without password"):
        NodeKey.load(path)


def test_a_secret_is_never_open_to_others_not_even_while_it_is_written(tmp_path, monkeypatch):
    modes: list[int] = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    before = os.umask(0)
    try:
        write_secret(tmp_path / "key", b"secret")
    finally:
        os.umask(before)
    assert modes[0] == 0o600
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    assert read_secret(tmp_path / "key") == b"secret"


def test_a_secret_is_never_written_over(tmp_path):
    write_secret(tmp_path / "key", b"first")
    with pytest.raises(ConfigError, match="never overwritten"):
        write_secret(tmp_path / "key", b"second")
    assert read_secret(tmp_path / "key") == b"first"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610, 0o602])
def test_a_secret_that_others_can_reach_is_refused_with_the_command_that_closes_it(tmp_path, mode):
    path = tmp_path / "my key"
    write_secret(path, b"secret")
    path.chmod(mode)
    with pytest.raises(ConfigError, match=rf"mode {mode:04o}.*expected 0600: chmod 600 '.*/my key'$"):
        read_secret(path)
    path.chmod(0o400)
    assert read_secret(path) == b"secret"


def test_a_missing_or_huge_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is missing"):
        read_small(tmp_path / "none")
    (tmp_path / "huge").write_bytes(b"x" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 65536 bytes"):
        read_small(tmp_path / "huge")
    with pytest.raises(MachineError, match="cannot read"):
        read_small(tmp_path)

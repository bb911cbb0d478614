import json
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from plait.trust.keys import read_certificate, server_names_of
from plait.trust.kit import ClientKit
from plait.trust.provision import provision


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("provision") / "kits"
    provision(directory, ["alice", "bob"], ["localhost", "10.0.0.5"], now=datetime.now(UTC))
    return directory


@pytest.fixture
def kits(made, tmp_path) -> Path:
    """A copy of two clients' kits that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "my kits"))


def test_it_makes_kits_and_says_what_to_copy_where_and_what_to_run(plait, tmp_path):
    directory = tmp_path / "kits"
    ran = plait("provision", directory, "--clients", "alice, bob", "--server-name", "fed.example.org")
    assert ran.code == 0
    assert server_names_of(read_certificate(directory / "server" / "server.crt")) == ("fed.example.org",)
    assert f"Copy {directory / 'server'} to the server's machine" in ran.out
    assert "plait server --kit plait-server --listen 0.0.0.0:9440 --min-clients 2" in ran.out
    for name in ("alice", "bob"):
        assert ClientKit.load(directory / "clients" / name).name == name
        assert f"plait client --kit {name} --server fed.example.org:9440 --data my.jsonl" in ran.out
    assert f"Keep {directory / 'authority'} offline" in ran.out


def test_a_server_with_an_ipv6_address_gets_it_in_brackets(plait, tmp_path):
    ran = plait("provision", tmp_path / "kits", "--clients", "a", "--server-name", "::1")
    assert f"--server {shlex.quote('[::1]:9440')}" in ran.out


def test_operators_get_kits_and_their_next_step(plait, kits):
    ran = plait("provision", kits, "--operators", "olga, eva")
    assert ran.code == 0
    assert f"made       {kits / 'operators' / 'olga'}  operator olga, certificate until" in ran.out
    assert "plait status --kit eva --server localhost:9440" in ran.out
    assert f"Copy {kits / 'server' / 'clients.json'}" in ran.out
    again = json.loads(plait("provision", kits, "--operators", "eva", "--json").out)
    assert again["clients"] == []
    assert [(kit["name"], kit["outcome"]) for kit in again["operators"]] == [("eva", "kept")]
    ran = plait("provision", kits, "--revoke", "olga")
    assert ran.out.startswith("revoked operator olga on ")
    assert f"plait provision {shlex.quote(str(kits))} --operators olga" in ran.out


def test_names_in_other_scripts_are_kept_and_found_again_however_an_accent_is_written(plait, kits):
    ran = plait("provision", kits, "--clients", "Zoe\u0308,李雷,Мария")
    assert ran.code == 0, ran.err
    assert all(f"client {name}," in ran.out for name in ("Zoë", "李雷", "Мария"))
    for name in ("Zoë", "李雷", "Мария"):
        assert ClientKit.load(kits / "clients" / name).name == name
    ran = plait("provision", kits, "--revoke", "Zoe\u0308")
    assert (ran.code, "revoked client Zoë on" in ran.out) == (0, True)

"""JSON and TOML that nest without end are refused in one line, whoever reads them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.adapters.fingerprint import _config_hash
from plait.adapters.state import Layout
from plait.api.serving import load_serving
from plait.errors import PlaitError
from plait.ledger.ledger import Follower, read_events
from plait.policy import load_policy
from plait.rounds.data_journal import DataJournal
from plait.rounds.run_state import damage_of
from plait.secagg.server import signatures_from_bytes
from plait.settings.table import read_config_table
from plait.system.text import MAX_DEPTH, read_json, read_toml
from plait.transport.status import json_object
from plait.trust.kit import read_client_settings
from plait.trust.register import read_clients

DEPTHS = (MAX_DEPTH + 1, 900, 100_000)
"""More than is allowed, more than callers that recurse endure, more than the library's readers do."""


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_text_is_read_to_a_depth_and_no_further(depth):
    assert read_json(nested(MAX_DEPTH))
    assert read_json(json.dumps([[1]] * 100)) == [[1]] * 100
    assert read_toml(b'a = "["\n') == {"a": "["}
    for read in (read_json, lambda text: read_json(text.encode()), lambda text: read_toml(f"a = {text}".encode())):
        with pytest.raises(ValueError, match="nested deeper"):
            read(nested(depth))


READERS: dict[str, Callable[[Path], object]] = {
    "policy.toml": load_policy,
    "config.toml": read_config_table,
    "serving.toml": load_serving,
    "kit.toml": lambda path: read_client_settings(path.parent),
    "clients.json": read_clients,
    "config.json": _config_hash,
    "ledger.jsonl": read_events,
    "followed.jsonl": lambda path: Follower(path).new_events(),
    "journal.jsonl": lambda path: DataJournal(path).entries(),
    "layout": lambda path: Layout.of_text(path.read_text()),
    "signatures": lambda path: signatures_from_bytes(path.read_bytes()),
    "run configuration": lambda path: json_object(path.read_text(), what="server's run configuration"),
}


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("name", READERS)
def test_whoever_reads_a_file_or_a_peer_refuses_it_in_one_line(name, depth, tmp_path):
    text = f"a = {nested(depth)}\n" if name.endswith(".toml") else f'{{"a":{nested(depth)}}}\n'
    (tmp_path / name).write_text(text)
    with pytest.raises(PlaitError) as refused:
        READERS[name](tmp_path / name)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_whose_state_nests_without_end_is_damaged(tmp_path):
    (tmp_path / "round-000001").mkdir()
    (tmp_path / "round-000001/state.json").write_text(nested(100_000))
    assert "nested deeper" in damage_of(tmp_path)["round-000001"]

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.settings import check_settings
from plait.errors import ConfigError
from plait.policy import Policy
from plait.trust.keys import NodeKey
from plait.trust.provision import provision


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    provision(tmp_path / "kits", ("ada",), ("localhost",), now=datetime.now(UTC))
    return tmp_path / "kits" / "clients" / "ada"


def test_with_a_kit_the_name_and_the_key_come_from_it(kit: Path, tmp_path: Path) -> None:
    settings = check_settings(server="localhost:9440", data="some/my.jsonl", kit=kit, state=tmp_path / "state")
    key = NodeKey.load(kit / "node.key")
    assert settings.credential.name == "ada"
    assert settings.credential.key is not None
    assert settings.credential.key.public_bytes == key.public_bytes
    assert (settings.name, settings.data, settings.state) == ("ada", "some/my.jsonl", tmp_path / "state")
    assert (settings.max_rank, settings.trainer, settings.policy) == (0, "", Policy())


def test_without_a_kit_the_data_gives_the_name() -> None:
    settings = check_settings(server="localhost:9440", data="some/my.jsonl", insecure=True)
    assert (settings.name, settings.credential.key) == ("my", None)
    assert check_settings(server="[::1]:1", data="x", insecure=True, name="bob").name == "bob"


def test_the_largest_rank_is_kept() -> None:
    assert check_settings(server="localhost:1", data="x", insecure=True, max_rank=4).max_rank == 4


def test_memory_is_counted_in_bytes() -> None:
    assert check_settings(server="localhost:1", data="x", insecure=True, max_memory_gb=1.5).max_memory_bytes == 1.5e9


def test_bases_can_be_named_one_for_all_runs_or_by_the_name_that_a_run_gives(tmp_path: Path) -> None:
    def bases(text: str) -> list[str]:
        settings = check_settings(server="localhost:1", data="x", insecure=True, base=text)
        return [settings.base_for(name) for name in ("news", "law", "tiny")]

    assert bases("") == ["", "", ""]
    assert bases("mine") == ["mine", "mine", "mine"]
    assert bases("news=/a, law=/b") == ["/a", "/b", ""]
    (tmp_path / "v=2").mkdir()
    assert bases(str(tmp_path / "v=2")) == [str(tmp_path / "v=2")] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "news=/a,/b"}, "expected one DIRECTORY, or NAME=DIRECTORY"),
        ({"base": "news=/a,news=/b"}, "with every name once"),
        ({"server": "plait.example.org:9440", "insecure": True}, "expected a server on this machine"),
        ({"insecure": False}, "give --kit DIR"),
        ({"server": "localhost"}, "expected HOST:PORT"),
        ({"name": "../ada"}, "client name is"),
        ({"threads": -1}, "threads is -1"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"max_memory_gb": -1.0}, "expected 0 or more"),
        ({"max_memory_gb": float("inf")}, "expected 0 or more"),
        ({"max_rank": -1}, "max-rank is -1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_settings(**{"server": "localhost:1", "data": "my.jsonl", "insecure": True, **changes})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_a_kit_goes_with_no_other_name_and_no_insecure_connection(kit: Path) -> None:
    with pytest.raises(ConfigError, match="was made for 'ada'"):
        check_settings(server="localhost:1", data="x", kit=kit, name="bob")
    with pytest.raises(ConfigError, match="give one of them"):
        check_settings(server="localhost:1", data="x", kit=kit, insecure=True)


def test_masks_are_required_by_option_or_policy_and_never_without_a_kit(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("require-secure-aggregation = true\n")
    given = {"server": "localhost:1", "data": "x"}
    for more in ({"require_secure_aggregation": True}, {"policy": tmp_path / "policy.toml"}):
        assert check_settings(**given, **more, kit=kit).policy.require_secure_aggregation
        with pytest.raises(ConfigError, match="require-secure-aggregation and insecure are both given"):
            check_settings(**given, **more, insecure=True)
    assert not check_settings(**given, kit=kit).policy.require_secure_aggregation

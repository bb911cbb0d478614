from __future__ import annotations

from pathlib import Path

import pytest

from plait.own import is_own, sign_own


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_this_user_wrote_is_told_from_everything_else(tmp_path: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    assert not is_own(file, b"first")
    sign_own(file, b"first")
    assert is_own(file, b"first")
    assert not is_own(file, b"another")
    assert not is_own(tmp_path / "server.toml", b"first")


def test_a_code_of_one_file_is_none_of_another(tmp_path: Path) -> None:
    sign_own(tmp_path / "one", b"same")
    (tmp_path / ".one.own").rename(tmp_path / ".other.own")
    assert not is_own(tmp_path / "other", b"same")


def test_another_machine_knows_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ledger.jsonl"
    sign_own(file, b"first")
    monkeypatch.setenv("PLAIT_CACHE", str(tmp_path / "elsewhere"))
    assert not is_own(file, b"first")
    sign_own(tmp_path / "theirs", b"")
    assert not is_own(file, b"first")


def test_a_key_that_others_could_have_written_counts_for_nothing(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "ledger.jsonl"
    sign_own(file, b"first")
    (cache / "own-runs.key").chmod(0o666)
    assert not is_own(file, b"first")
    assert (cache / "own-runs.key").stat().st_size == 32

from __future__ import annotations

from pathlib import Path

import pytest

from plait.errors import MachineError
from plait.page.passes import Passes, Visitor
from plait.trust import Role
from plait.trust.certificate import Shown

OLGA = Visitor(Role.OBSERVER, Shown("olga", Role.OPERATOR, bytes(range(32))), is_certified=False)


def passes(file: Path, *, now: float = 0.0, longest_s: float = 60.0) -> Passes:
    return Passes(most=2, longest_s=longest_s, clock=lambda: now, file=file)


def test_a_restarted_page_knows_its_sessions_and_no_others(tmp_path: Path) -> None:
    file = tmp_path / "sessions"
    before = passes(file)
    kept, left = before.issue(OLGA, 60), before.issue(OLGA, 60)
    assert before.take(left) == OLGA
    assert kept not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    after = passes(file, now=5000.0)
    assert after.find(kept) == OLGA
    assert after.find(left) is None


def test_a_session_is_no_longer_good_than_it_may_be_whatever_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "sessions"
    token = passes(file).issue(OLGA, 1e9)
    now = [0.0]
    restarted = Passes(most=2, longest_s=60, clock=lambda: now[0], file=file)
    assert restarted.find(token) == OLGA
    now[0] = 60.0
    assert restarted.find(token) is None


@pytest.mark.parametrize("content", [b"", b"[]]", b'[{"token": "x"}]', b"[" * 5000, b"x" * 100_000])
def test_a_damaged_file_is_said_and_holds_no_session(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "sessions"
    file.write_bytes(content)
    file.chmod(0o600)
    restarted = passes(file)
    assert "sessions of the page are forgotten" in caplog.text
    token = restarted.issue(OLGA, 60)
    assert passes(file).find(token) == OLGA


def test_a_file_that_others_can_read_is_not_trusted(tmp_path: Path) -> None:
    file = tmp_path / "sessions"
    token = passes(file).issue(OLGA, 60)
    file.chmod(0o644)
    assert passes(file).find(token) is None


def test_a_session_that_was_ended_does_not_come_back_where_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "sessions"
    before = passes(file)
    token = before.issue(OLGA, 60)

    def fail(path: Path, data: bytes, *, mode: int) -> None:
        raise MachineError(f"cannot write {path}, {len(data)} bytes, {mode:o}")

    monkeypatch.setattr("plait.page.passes.write_atomically", fail)
    assert before.take(token) == OLGA
    assert passes(file).find(token) is None

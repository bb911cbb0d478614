from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.consent import Consents, agree, consent_digest
from plait.errors import PolicyError

CONFIG = {"rounds": 3, "base": "tiny", "learning-rate": 0.01}
DIGEST = consent_digest(CONFIG, b"f" * 32, b"authority")


def never() -> bool:
    raise AssertionError("asked")


@pytest.mark.parametrize(
    "other",
    [
        consent_digest({**CONFIG, "rounds": 4}, b"f" * 32, b"authority"),
        consent_digest({**CONFIG, "rank": 8}, b"f" * 32, b"authority"),
        consent_digest(CONFIG, b"g" * 32, b"authority"),
        consent_digest(CONFIG, b"f" * 32, b"another"),
    ],
)
def test_consent_is_to_one_configuration_base_and_federation(other: str) -> None:
    assert other != DIGEST
    assert consent_digest(dict(reversed(CONFIG.items())), b"f" * 32, b"authority") == DIGEST


def test_consent_is_asked_for_once_and_remembered_for_its_owner_alone(tmp_path: Path) -> None:
    consents = Consents.of(tmp_path / "state", "ada")
    assert agree(DIGEST, "run", consents, most_runs=9, yes=False, by_policy=False, ask=lambda: True) == "asked"
    assert (
        agree(DIGEST, "run", Consents.of(tmp_path / "state", "ada"), most_runs=9, yes=False, by_policy=False, ask=never)
        == "before"
    )
    assert stat.S_IMODE(consents.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(consents.path.parent.stat().st_mode) == 0o700


def test_a_no_is_not_remembered(tmp_path: Path) -> None:
    consents = Consents.of(tmp_path, "ada")
    with pytest.raises(PolicyError, match="did not consent"):
        agree(DIGEST, "run", consents, most_runs=9, yes=False, by_policy=True, ask=lambda: False)
    assert not consents.has(DIGEST)


def test_without_a_terminal_the_policy_decides(tmp_path: Path) -> None:
    consents = Consents.of(tmp_path, "ada")
    with pytest.raises(PolicyError, match="`plait client … --yes`, or answer once on a terminal"):
        agree(DIGEST, "run", consents, most_runs=9, yes=False, by_policy=False, ask=None)
    assert agree(DIGEST, "run", consents, most_runs=9, yes=False, by_policy=True, ask=None) == "policy"
    assert agree("another", "run", consents, most_runs=9, yes=True, by_policy=False, ask=None) == "yes"
    assert consents.has(DIGEST)
    assert consents.has("another")


def test_runs_of_one_configuration_are_counted_without_asking_again(tmp_path: Path) -> None:
    consents = Consents.of(tmp_path, "ada")
    how = [
        agree(DIGEST, run, consents, most_runs=3, yes=True, by_policy=False, ask=None)
        for run in ("a", "b", "a", "c", "b", "c")
    ]
    assert how == ["yes", "before", "before", "before", "before", "before"]
    with pytest.raises(PolicyError, match="began 4 runs of one configuration, but max-rounds of this client's policy"):
        agree(DIGEST, "d", consents, most_runs=3, yes=True, by_policy=True, ask=lambda: True)
    assert agree("another", "d", consents, most_runs=3, yes=True, by_policy=False, ask=None) == "yes"


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_memory_asks_again(tmp_path: Path, damaged: bytes) -> None:
    consents = Consents.of(tmp_path, "ada")
    consents.path.write_bytes(damaged)
    assert not consents.has(DIGEST)
    consents.add(DIGEST, "run", "asked")
    assert consents.has(DIGEST)


def test_no_more_runs_begin_within_a_week_than_the_policy_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    consents, now = Consents.of(tmp_path, "ada"), [1_000_000.0]
    monkeypatch.setattr("client.consent.time.time", lambda: now[0])

    def begin(run: str) -> str:
        return agree(run, run, consents, most_runs=9, most_a_week=2, yes=True, by_policy=False, ask=None)

    begin("a")
    now[0] += 3 * 24 * 3600
    begin("b")
    with pytest.raises(PolicyError, match="began 2 runs within seven days, but max-runs-per-week"):
        begin("c")
    # A run that continues is no new one.
    assert begin("b") == "before"
    now[0] += 4 * 24 * 3600 + 1
    begin("c")


def test_consent_to_a_masked_run_is_none_to_the_next_of_the_same_settings(tmp_path: Path) -> None:
    consents = Consents.of(tmp_path, "ada")

    def begin(run: str, answer: bool) -> str:
        return agree(DIGEST, run, consents, most_runs=9, each_run=True, yes=False, by_policy=False, ask=lambda: answer)

    assert begin("a", answer=True) == "asked"
    assert begin("a", answer=False) == "before"
    with pytest.raises(PolicyError, match="did not consent"):
        begin("b", answer=False)
    assert begin("b", answer=True) == "asked"

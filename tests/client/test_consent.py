import os
import pty
import stat
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from client.consent import Consents, Proposal, agree, asker, consent_digest
from plait.config import config_from_table
from plait.errors import PolicyError
from plait.policy import Policy

CONFIG = {"rounds": 3, "base": "tiny", "learning-rate": 0.01}
DIGEST = consent_digest(CONFIG, b"f" * 32, b"authority")


def agreed(consents: Consents, run: str = "run", digest: str = DIGEST, **how: object) -> str:
    """The form of consent to a run of few; without a yes, a policy or a terminal unless they are given."""
    given = {"most_runs": 9, "yes": False, "by_policy": False, "ask": None, **how}
    return agree(digest, run, consents, **given)  # type: ignore[arg-type]


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
def test_consent_is_to_one_configuration_base_and_federation(other):
    assert other != DIGEST
    assert consent_digest(dict(reversed(CONFIG.items())), b"f" * 32, b"authority") == DIGEST


def test_consent_is_asked_for_once_and_remembered_for_its_owner_alone(tmp_path):
    consents = Consents.of(tmp_path / "state", "ada")
    assert agreed(consents, ask=lambda: True) == "asked"
    assert agreed(Consents.of(tmp_path / "state", "ada"), ask=never) == "before"
    assert stat.S_IMODE(consents.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(consents.path.parent.stat().st_mode) == 0o700


def test_a_no_is_not_remembered(tmp_path):
    consents = Consents.of(tmp_path, "ada")
    with pytest.raises(PolicyError, match="did not consent"):
        agreed(consents, by_policy=True, ask=lambda: False)
    assert not consents.has(DIGEST)


def test_without_a_terminal_the_policy_decides(tmp_path):
    consents = Consents.of(tmp_path, "ada")
    with pytest.raises(PolicyError, match="`plait client … --yes`, or answer once on a terminal"):
        agreed(consents)
    assert agreed(consents, by_policy=True) == "policy"
    assert agreed(consents, digest="another", yes=True) == "yes"
    assert consents.has(DIGEST)
    assert consents.has("another")


def test_runs_of_one_configuration_are_counted_without_asking_again(tmp_path):
    consents = Consents.of(tmp_path, "ada")
    how = [agreed(consents, run, most_runs=3, yes=True) for run in ("a", "b", "a", "c", "b", "c")]
    assert how == ["yes", "before", "before", "before", "before", "before"]
    with pytest.raises(PolicyError, match="began 4 runs of one configuration, but max-rounds of this client's policy"):
        agreed(consents, "d", most_runs=3, yes=True, by_policy=True, ask=lambda: True)
    assert agreed(consents, "d", "another", most_runs=3, yes=True) == "yes"


@pytest.mark.parametrize(
    "damaged", [b"", b"{", b"[]", b"\xff\xfe", b'{"d": null}', b'{"d": {"runs": [1]}}', b"[" * 100_000]
)
def test_a_damaged_memory_is_no_empty_one(tmp_path, damaged):
    consents = Consents.of(tmp_path, "ada")
    consents.path.write_bytes(damaged)
    with pytest.raises(PolicyError, match="is damaged, so it is unknown which runs were agreed to: restore it, or"):
        agreed(consents, yes=True)


def test_no_more_runs_begin_within_a_week_than_the_policy_allows(tmp_path, monkeypatch):
    consents, now = Consents.of(tmp_path, "ada"), [1_000_000.0]
    monkeypatch.setattr("client.consent.time.time", lambda: now[0])

    def begin(run: str) -> str:
        return agreed(consents, run, run, most_a_week=2, yes=True)

    begin("a")
    now[0] += 3 * 24 * 3600
    begin("b")
    with pytest.raises(PolicyError, match="began 2 runs within seven days, but max-runs-per-week"):
        begin("c")
    # A run that continues is no new one.
    assert begin("b") == "before"
    now[0] += 4 * 24 * 3600 + 1
    begin("c")


def test_consent_to_a_masked_run_is_none_to_the_next_of_the_same_settings(tmp_path):
    consents = Consents.of(tmp_path, "ada")

    def begin(run: str, answer: bool) -> str:
        return agreed(consents, run, each_run=True, ask=lambda: answer)

    assert begin("a", answer=True) == "asked"
    assert begin("a", answer=False) == "before"
    with pytest.raises(PolicyError, match="did not consent"):
        begin("b", answer=False)
    assert begin("b", answer=True) == "asked"


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Puts standard input and error on a terminal, and gives the operator's end; in the test, which pytest captures."""
    opened: list[int] = []
    streams: list[IO[str]] = []

    def put() -> int:
        ours, theirs = pty.openpty()
        opened.extend((ours, theirs))
        for name, mode in (("stdin", "r"), ("stderr", "w")):
            streams.append(os.fdopen(os.dup(theirs), mode))
            monkeypatch.setattr(sys, name, streams[-1])
        return ours

    yield put
    monkeypatch.undo()
    for stream in streams:
        stream.close()
    for descriptor in opened:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("typed", "consents"),
    [(b"y\n", True), (b"YES\n", True), (b" yes \n", True), (b"n\n", False), (b"\n", False), (b"yesterday\n", False)],
)
def test_only_a_yes_is_a_yes(on_terminal, typed, consents):
    terminal = on_terminal()
    ask = asker("Take part?")
    os.write(terminal, typed)
    assert ask() is consents
    shown = b""
    while b"Take part? [y/N] " not in shown:  # what was typed is shown too, and may come by itself
        shown += os.read(terminal, 1000)


def test_it_is_asked_from_any_thread_and_waits_for_the_answer(on_terminal):
    terminal = on_terminal()
    ask = asker("Take part?")
    answers: list[bool] = []
    asking = threading.Thread(target=lambda: answers.append(ask()))
    asking.start()
    while b"[y/N]" not in os.read(terminal, 1000):
        pass
    assert not answers
    os.write(terminal, b"y\n")
    asking.join(180)
    assert answers == [True]


def test_a_terminal_that_hangs_up_says_no(on_terminal):
    terminal = on_terminal()
    ask = asker("Take part?")
    end_of_file = termios.tcgetattr(terminal)[6][termios.VEOF]
    os.write(terminal, end_of_file)
    assert ask() is False


def test_without_a_terminal_no_question_is_asked(monkeypatch):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert asker("Take part?") is None
    assert asker("Take part?") is None


def lines(**settings: object) -> str:
    config = config_from_table({"local-steps": 5, "batch-size": 4, "seq-len": 32, **settings})
    return "\n".join(Proposal("here:1", config, b"", "my.jsonl", Policy(), None).lines)


PREFERENCES = {"objective": "dpo:beta=0.2"}
MASKED = {"secure-aggregation": True, "clients": 9}
DP = {"dp-epsilon": 8.0, "dp-delta": 1e-5}


@pytest.mark.parametrize(
    ("settings", "said", "unsaid"),
    [
        (
            {},
            ("5 steps of 4 x 32 tokens: at most 640 tokens of", "the server sees this client's own updates and losses",
             "also sent: losses, counts of examples and tokens, this machine's device and memory"),
            ("preferences", "more than a client takes", "is masked"),
        ),
        (
            PREFERENCES,
            ("5 steps of 4 preferences of 2 x 32 tokens", "at most 1,280 tokens of",
             "also sent: losses, how often rewards are right, counts"),
            (),
        ),
        ({"seq-len": 100_000}, ("more than an unattended client accepts: max-seq-len 100,000 (by default 8,192)",), ()),
        (
            MASKED,
            ("the run is masked (secure aggregation): the server learns sums over 4 or more clients, and no single",
             "also sent under masks: losses, how long its update is", "updates of 6 bits per parameter"),
            ("join only a server that you trust",),
        ),
        (
            {"dp": "record", **DP},
            ("this client adds noise to its own training, so that no single sequence shows", "epsilon 8",
             "also sent: this machine's device and memory"),
            ("can reveal parts",),
        ),
        (
            {"dp": "record", **DP, "group": "patient", "dp-group-records": 8},
            ("so that no single patient, with all its records, shows in what it sends",),
            ("no single sequence",),
        ),
        (
            {"dp": "client", **DP, "secure-aggregation": True, "clients": 100},
            ("adds its share of the noise under its masks",),
            ("losses, counts", "masks add no noise"),
        ),
    ],
    ids=["plain", "preferences", "large", "masked", "records", "groups", "shares"],
)  # fmt: skip
def test_a_proposal_says_what_is_trained_sent_and_protected(settings, said, unsaid):
    told = lines(**settings)
    assert [part for part in said if part not in told] == []
    assert [part for part in unsaid if part in told] == []


def test_an_operator_is_told_what_a_member_that_lies_can_do():
    spoils = "one member that lies can spoil the result"
    assert (
        f"{spoils}, because rule fedavg is a mean: where members are not trusted, ask for a run with --rule median"
        in (lines())
    )
    assert f"{spoils}, and masks would hide which, because" in lines(**{"secure-aggregation": True, "clients": 9})
    assert spoils not in lines(rule="median") + lines(rule="trimmed_mean:trim=0.2")


def test_a_run_of_epochs_is_proposed_by_its_passes_and_the_policys_limit():
    config = config_from_table({"base": "tiny", "epochs": 1.5, "rounds": 3})
    lines = Proposal("hub", config, b"", "my.jsonl", Policy(), None).lines
    assert any("0.5 of a pass in steps of 4 x 128 tokens: at most 100,000,000 tokens (max-tokens)" in x for x in lines)

"""A run that was stopped at any point continues to the same result, whatever its rule, wire and client state."""

import pytest

from plait.errors import RunInterrupted
from plait.ledger.watch import Watch
from plait.privacy.mechanism import ClientPrivacy, multiplier_for
from plait.rounds.channel import Purpose
from plait.rounds.coordinator import Coordinator
from plait.rounds.memory import IRREPLACEABLE
from plait.rounds.spool import Intake
from plait.secagg.stages import MaskedSums
from tests.killing import at_each_line, different_stories

CASES = {
    "fedavg": {"bits": "bf16"},
    "two bits": {"bits": "2"},
    "fedsvd turns factors": {"rule": "fedsvd"},
    "fedsa keeps a side at the clients": {"rule": "fedsa", "bits": "bf16"},
    "rolora trains one side at a time": {"rule": "rolora", "bits": "bf16"},
    "flexlora, mixed ranks": {"rule": "flexlora", "ranks": {"alice": 1, "bob": 2}, "bits": "bf16"},
    "momentum at the server, moments at the clients": {"optimizer": "nesterov", "settings": {"carry_moments": True}},
    "clients find their learning rates": {"settings": {"learning_rate": 0.0}, "bits": "bf16"},
    "the server's step follows slopes": {
        "optimizer": "line_search",
        "settings": {"measures_slope": True, "batch_size": 4},
        "bits": "bf16",
    },
    "clients end with their own": {
        "settings": {"personalize": 0.7, "total_steps": 6, "carry_moments": True},
        "bits": "bf16",
    },
    "a step is taken back": {"astray": (1,), "watch": Watch("accepted", take_back=True), "bits": "bf16"},
    "all of a step is taken back": {"astray": (1,), "watch": Watch("accepted", take_back=True), "rule": "fedsvd"},
    "few clients in a round": {
        "count": 6,
        "rounds": 3,
        "cohort_size": 2,
        "eval_every": 3,
        "bits": "1",
    },
    "a final figure": {"settings": {"judge_part": 5}, "bits": "1"},
    "the best is kept": {"astray": (2,), "watch": Watch("best")},
}

PRIVACY = ClientPrivacy(
    noise_multiplier=multiplier_for(8.0, 1e-5, 2), delta=1e-5, epsilon=8.0, clients=3, clip_norm=0.5, quantile=0.5,
    largest_step=0.2,
)  # fmt: skip


def begin(federate, fake_model, case, **more):
    """A federation of this case, of two clients or `count`."""
    options = {**CASES[case], **more}
    astray = options.pop("astray", ())
    if names := "abcdef"[: options.pop("count", 0)]:
        return federate({name: fake_model(number, 1 + number) for number, name in enumerate(names)}, **options)
    return federate({"alice": fake_model(1, 3, astray=astray), "bob": fake_model(4, 7, astray=astray)}, **options)


@pytest.mark.parametrize(
    ("case", "left_behind"),
    [
        ("fedavg", "clients remember"),
        *(
            pytest.param(case, left, marks=pytest.mark.slow)
            for case, left in [
                ("fedavg", "torn line"),
                ("clients find their learning rates", "clients remember"),
                ("a step is taken back", "clients remember"),
                ("a step is taken back", "torn line"),
                ("the best is kept", "clients remember"),
                ("few clients in a round", "clients remember"),
            ]
        ),
        # What only a client keeps is on its disk; all else comes anew from the server, to the bit.
        *(pytest.param(case, "clients forget", marks=pytest.mark.slow) for case in CASES),
    ],
)
def test_a_run_killed_anywhere_goes_on_to_the_same_adapter(
    federate, fake_model, everyone_holds, snapshots_of, left_behind, case
):
    federation = begin(federate, fake_model, case)
    snapshots = snapshots_of(federation)
    expected = snapshots.run()
    assert len(snapshots.killed) > 35

    for where, killed in snapshots.killed:
        if left_behind == "clients forget":
            # All but what could not be sent to them again; a simulation keeps that on disk.
            for memory in killed.memories.values():
                for key in [key for key in memory if key not in IRREPLACEABLE]:
                    del memory[key]
        if left_behind == "torn line":
            with (killed.path / "ledger.jsonl").open("ab") as file:
                file.write(b'{"event":"update_rec')
        spooled = {(int(path.parent.name[6:]), path.stem) for path in killed.path.glob("spool/*/*.envelope")}
        state = killed.run()
        assert state.adapter.digest() == expected.adapter.digest(), where
        for track, wanted in zip(state.tracks, expected.tracks, strict=True):
            assert track.shadow.digest() == wanted.shadow.digest(), where
        assert killed.published[-1].shadow.digest() == federation.published[-1].shadow.digest(), where
        asked = {(ask.round, ask.client) for ask in killed.channel.asked if ask.purpose is Purpose.TRAIN}
        if asked:
            everyone_holds(killed, state)
        assert not asked & spooled, where
        assert not different_stories(killed.events, federation.events), where


@pytest.mark.parametrize(
    ("commit", "more"),
    [
        (Coordinator.commit_round, {"privacy": PRIVACY}),
        (Intake.commit_update, {}),
        (MaskedSums.commit_sum, {"masked": True, "rounds": 1}),
    ],
    ids=["round", "update", "sum"],
)
def test_a_run_killed_at_any_line_of_a_commit_goes_on_to_the_same_ledger(federate, snapshots_of, commit, more):
    federation = federate(**more)
    snapshots = snapshots_of(federation)
    with at_each_line([commit], snapshots.take):
        expected = federation.run()
    assert len(snapshots.killed) > 5
    for where, killed in snapshots.killed:
        assert killed.run().adapter.digest() == expected.adapter.digest(), where
        assert not different_stories(killed.events, federation.events), where


@pytest.mark.slow
def test_a_damaged_spooled_update_is_asked_for_again(federate):
    undisturbed = federate().run()
    federation = federate()

    def die(asked):
        if asked.purpose is Purpose.TRAIN and asked.client == "mallory":
            raise ZeroDivisionError

    federation.channel.order = sorted
    federation.channel.before = die
    with pytest.raises(ZeroDivisionError):
        federation.run()
    spooled = next(federation.path.glob("spool/*/bob*"))
    spooled.write_bytes(spooled.read_bytes()[:-1] + b"\0")
    federation.channel.before = lambda asked: None
    assert federation.run().adapter.digest() == undisturbed.adapter.digest()


def test_a_damaged_checkpoint_costs_a_round_and_not_the_result(federate, everyone_holds):
    federation = federate(rounds=3)
    expected = federation.run()
    (federation.path / "checkpoints/round-000003/broadcast-0.bin").write_bytes(b"rot")
    state = federation.run()
    assert state.adapter.digest() == expected.adapter.digest()
    everyone_holds(federation, state)


@pytest.mark.parametrize("stop", [RunInterrupted, KeyboardInterrupt])
def test_an_interruption_is_noted_and_passed_on(federate, stop):
    federation = federate()

    def interrupt(asked):
        if (asked.purpose, asked.round) == (Purpose.TRAIN, 2):
            raise stop

    federation.channel.before = interrupt
    with pytest.raises(stop):
        federation.run()
    last = federation.events[-1]
    assert (last["event"], last["round"]) == ("interrupted", 1)

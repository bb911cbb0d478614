"""A run watches itself: steps that made the adapter worse are taken back, and a run that learns no more ends."""

import numpy as np
import pytest

from plait.errors import PeerError
from plait.ledger.watch import Watch
from plait.rounds.fold import Aggregator
from tests.plait.rounds.test_audit import rewritten


@pytest.fixture
def astray(federate, fake_model):
    """A federation whose clients all go the wrong way in some rounds."""

    def make(*rounds, **options):
        models = {name: fake_model(3.0, 5, astray=rounds) for name in ("alice", "bob", "carol")}
        return federate(models, **{"watch": Watch("accepted", take_back=True), **options})

    return make


def losses(federation):
    return [event["loss"] for event in federation.of_kind("evaluated")]


@pytest.mark.slow
@pytest.mark.parametrize(("eval_every", "rate"), [(1, 1.5 / 2**0.5), (2, 1.5)])
def test_a_slope_counts_along_half_of_a_step_and_not_where_several_were_taken_back(astray, eval_every, rate):
    federation = astray(
        4,
        rounds=5,
        eval_every=eval_every,
        optimizer="line_search",
        settings={"measures_slope": True, "batch_size": 4},
        keep_updates=True,
    )
    state = federation.run()
    assert [event["round"] for event in federation.of_kind("step_taken_back")] == [4]
    assert state.optimizer_memory["rate"][0] == pytest.approx(rate)
    assert federation.recomputed() == 5


@pytest.mark.slow
@pytest.mark.parametrize("bits", ["fp32", "1"])
def test_a_run_whose_last_step_made_the_adapter_worse_publishes_the_last_one_that_did_not(astray, bits):
    federation = astray(3, rounds=3, bits=bits, keep_updates=True)
    state = federation.run()
    assert losses(federation)[3] > losses(federation)[2]
    # At one bit an earlier round may be above the base as well.
    told = federation.of_kind("not_published")
    event = told[-1]
    kept = max({0, 1, 2} - {each["round"] for each in told})
    assert (event["round"], event["kept"], event["above"], event["higher"]) == (3, kept, 0, [3, 3])
    published = federation.published[-1]
    assert published.round == kept
    evaluated = federation.of_kind("evaluated")[kept]["adapter"]
    assert published.shadow.digest().hex() == evaluated != state.shadow.digest().hex()
    assert federation.recomputed() == 3
    # As if killed before the run's last event: it is published again, and told of once.
    federation.run()
    assert federation.published[-1].shadow.digest().hex() == evaluated
    assert len(federation.of_kind("not_published")) == len(told)


def test_a_run_that_ends_above_the_base_publishes_the_adapter_that_it_began_with(astray):
    federation = astray(1, 2, rounds=2)
    federation.run()
    assert federation.published[-1].shadow.digest() == federation.initial.digest()


def test_where_evaluations_are_rare_all_steps_since_the_last_one_are_taken_back(astray):
    federation = astray(3, rounds=5, eval_every=2)
    state = federation.run()
    (event,) = federation.of_kind("step_taken_back")
    assert (event["round"], event["accepted"], event["scale"], event["taken_back"]) == (4, 2, 0.5, "half")
    assert 4 not in {each.round for each in federation.published}, "what is taken back to was not evaluated"
    # Rounds 3 and 4 together lead away from round 2, and half of the way is taken back after round 4.
    flat = federation.initial.flat.astype(np.float64)
    masters = [flat]
    for number in range(1, 5):
        flat = masters[-1]
        masters.append(
            flat + np.mean([federation.train_alone(name, flat, number) - flat for name in federation.models], axis=0)
        )
    middle = (masters[2] + masters[4]) / 2
    step = np.mean([federation.train_alone(name, middle, 5) - middle for name in federation.models], axis=0)
    np.testing.assert_allclose(state.adapter.flat, middle + step / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("rule", "how"), [("fedsvd", "all"), ("fedsa", "half")])
def test_every_rule_takes_back_what_it_can_and_says_how_much(astray, everyone_holds, monkeypatch, rule, how):
    federation, masters, take_back = astray(2, rounds=3, rule=rule), [], Aggregator.take_back

    def noted(self, state):
        taken = take_back(self, state)
        masters.append(taken[0].adapter)
        return taken

    monkeypatch.setattr(Aggregator, "take_back", noted)
    state = federation.run()
    assert losses(federation)[2] > losses(federation)[1]
    event = next(each for each in federation.of_kind("step_taken_back") if each["round"] == 2)
    assert (event["round"], event["taken_back"]) == (2, how)
    assert event["adapter"]
    everyone_holds(federation, state)
    if how == "all":
        assert masters[0].digest() == next(each for each in federation.published if each.round == 1).adapter.digest()


def test_the_best_evaluated_adapter_is_what_stays_published(astray):
    federation = astray(3, 4, rounds=4, watch=Watch("best", take_back=True))
    federation.run()
    assert [each.round for each in federation.published] == [0, 1, 2]
    best = min(federation.of_kind("evaluated"), key=lambda event: event["loss"])
    assert best["adapter"] == federation.published[-1].shadow.digest().hex()


def test_a_step_that_is_said_to_be_taken_back_without_reason_is_found(astray):
    federation = astray(2, rounds=3, keep_updates=True)
    federation.run()

    def flatter(kind, fields):
        if kind == "evaluated" and fields["round"] == 2:
            fields["by_client"] = {name: {**row, "loss": 0.0} for name, row in fields["by_client"].items()}
        return fields

    rewritten(federation, flatter)
    with pytest.raises(PeerError, match="the step of round 2 was taken back, although no loss rose"):
        federation.recomputed()

"""The final figure: measured once, at the end, on what no decision looked at."""

from dataclasses import replace

import pytest

from plait.ledger.watch import Watch
from plait.rounds.terms import AgreedTerms
from plait.wire.messages import ClientCard, Evaluation, Refusal

# Of the federation's clients alice (3 examples) and bob (7) have so many records, mallory (2) has not.
SOME = {"settings": {"judge_part": 3}}


def comparable(event):
    return {key: value for key, value in event.items() if key not in ("seq", "time", "prev", "hash")}


def test_it_is_of_the_clients_with_enough_records_and_changes_nothing_else(federate):
    plain, judged = federate(), federate(**SOME)
    assert judged.run().adapter.digest() == plain.run().adapter.digest()
    assert [*map(comparable, judged.of_kind("evaluated"))] == [*map(comparable, plain.of_kind("evaluated"))]
    assert not plain.of_kind("judged")
    (event,) = judged.of_kind("judged")
    assert event["round"] == judged.plan.rounds
    assert event["adapter"] == judged.of_kind("evaluated")[-1]["adapter"]
    assert [*event["by_client"]] == ["alice", "bob"]
    spec, state = judged.spec, judged.published[-1].shadow
    tasks = replace(judged.plan.settings, judging=True)
    for name, score in event["by_client"].items():
        after, before = (judged.models[name].evaluate(spec, each, tasks) for each in (state, judged.initial))
        assert score["loss"] == pytest.approx(after.loss)
        assert score["change"] == pytest.approx(after.loss - before.loss)
        assert score["sequences"] == 4
    described = judged.of_kind("clients_described")[0]["clients"]
    assert [client["judge_examples"] for client in described] == [4, 4, 0]


def test_it_is_of_the_adapter_that_is_published_though_a_later_one_was_worse(federate, fake_model):
    models = {name: fake_model(3.0, 5, astray=(3,)) for name in ("alice", "bob", "carol")}
    federation = federate(models, rounds=3, watch=Watch("accepted", take_back=True), **SOME)
    federation.run()
    (refused,) = federation.of_kind("not_published")
    (event,) = federation.of_kind("judged")
    assert event["round"] == refused["kept"] == 2
    assert event["adapter"] == federation.published[-1].shadow.digest().hex()
    assert not federation.of_kind("update_refused")


def test_an_adapter_that_is_no_better_than_the_base_is_not_judged(federate, fake_model):
    models = {name: fake_model(3.0, 5, astray=(1, 2)) for name in ("alice", "bob", "carol")}
    federation = federate(models, watch=Watch("accepted", take_back=True), **SOME)
    federation.run()
    assert federation.published[-1].shadow.digest() == federation.initial.digest()
    assert not federation.of_kind("judged")


def test_under_masks_the_ledger_has_its_mean_alone(federate, fake_model):
    models = {name: fake_model(float(place), 3 + place) for place, name in enumerate(("alice", "bob", "carol"))}
    federation = federate(models, masked=True, **SOME)
    state = federation.run()
    (event,) = federation.of_kind("judged")
    tasks = replace(federation.plan.settings, judging=True)
    losses = [each.evaluate(federation.spec, state.shadow, tasks).loss for each in models.values()]
    assert event["loss"] == pytest.approx(sum(losses) / 3)
    assert not event["by_client"]
    (summed,) = (each for each in federation.of_kind("sum_unmasked") if each["purpose"] == "judge")
    assert summed["evaluated_by"] == [*models]


@pytest.fixture
def judged_bob(bob):
    """A client of a run with a judge part, which gives no second answer about an adapter."""
    from plait.policy import Policy

    plan = replace(bob.tasks.plan, settings=replace(bob.tasks.plan.settings, judge_part=3))
    bob.tasks = replace(bob.tasks, plan=plan)
    policy = Policy(min_examples=1, min_tokens=1, max_repeats=0)
    bob.terms = AgreedTerms("bob", bob.tasks, (bob.spec,), bob.spec, policy)
    return bob


def test_a_client_is_judged_once_and_again_only_on_the_same_adapter(judged_bob):
    bob = judged_bob
    assert isinstance(card := bob.describe(), ClientCard)
    assert card.judge_examples == 4
    first = bob.evaluate(2, judging=True)
    assert isinstance(first, Evaluation)
    assert bob.evaluate(2, judging=True) == first
    assert isinstance(bob.evaluate(2), Evaluation)
    for number in (1, 3):
        refused = bob.evaluate(number, judging=True)
        assert isinstance(refused, Refusal)
        assert "is asked for again from another adapter" in refused.detail


def test_a_run_without_a_judge_part_asks_for_none(bob):
    bob.terms = AgreedTerms("bob", bob.tasks, (bob.spec,), bob.spec)
    refused = bob.evaluate(1, judging=True)
    assert isinstance(refused, Refusal)
    assert "judging of the task is True, but False in the run configuration" in refused.detail

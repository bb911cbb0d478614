from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from plait.adapters import Subject
from plait.aggregation import RULES
from plait.errors import PolicyError
from plait.policy import Policy
from plait.rounds.broadcasts import Broadcasts
from plait.rounds.participant import Participant
from plait.rounds.run_plan import TaskSettings
from plait.rounds.terms import AgreedTerms, TaskHistory
from plait.rounds.validate import NormBound, NormPolicy
from plait.wire.envelope import open_envelope, read_header
from plait.wire.messages import (
    ClientCard,
    DescribeTask,
    Evaluation,
    Refusal,
    RefusalReason,
    TrainTask,
    UpdateReply,
)
from plait.wire.settings import Settings
from tests.plait.rounds.conftest import DictMemory

ROUNDS = 3
LOOSE = Policy(min_examples=1, min_tokens=1)
OTHER = {
    "lr_schedule": "linear", "trained": "A", "personal": "B", "bits": "bf16", "carry_moments": True,
    "without_feedback": True, "measures_slope": True, "personalize": 0.5, "held_out_fraction": 0.75,
    "loss": "mine:loss", "objective": "dpo", "lr_schedule_over": "round", "packing": False, "eval_metrics": "auroc",
    "secure_aggregation": True, "record_delta": 0.5, "judging": True,
}  # fmt: skip


@pytest.fixture
def bob(bob):
    bob.terms = AgreedTerms("bob", bob.tasks, (bob.spec,), bob.spec, LOOSE)
    return bob


def refused(reply, words):
    assert isinstance(reply, Refusal), reply
    assert reply.reason is RefusalReason.POLICY
    assert words in reply.detail, reply.detail
    return True


def test_what_was_agreed_on_is_done(bob):
    assert isinstance(bob.describe(), ClientCard)
    for number in range(1, ROUNDS + 1):
        assert isinstance(bob.train(number), UpdateReply)
        assert isinstance(bob.evaluate(number), Evaluation)


def test_steps_of_ones_own_are_those_that_the_run_configuration_allows(bob):
    refused(bob.train(steps=1), "steps of the task is 1, but 0 in the run configuration")
    stepping = SimpleNamespace(most=lambda local_steps: 4 * local_steps)
    plan = replace(bob.terms.tasks.plan, stepping=stepping)
    terms = replace(bob.terms, tasks=replace(bob.terms.tasks, plan=plan))
    spec_task = bob.terms.tasks.to_train(1, "bob")
    for steps, word in ((0, "are 0"), (9, "are 9")):
        task = TrainTask(replace(spec_task, steps=steps), bob.broadcast(bob.start))
        assert refused(bob.ask(task, terms=terms), f"steps of the task {word}, but the run configuration allows 1 to 8")
    assert isinstance(
        bob.ask(TrainTask(replace(spec_task, steps=8), bob.broadcast(bob.start)), terms=terms), UpdateReply
    )


def other_value(name, value):
    if name in OTHER:
        return OTHER[name]
    return value + 1


@pytest.mark.parametrize("name", [each.name for each in fields(Settings) if each.name != "round"])
@pytest.mark.parametrize("purpose", ["describe", "train", "evaluate"])
def test_a_setting_that_differs_is_refused_before_anything_is_trained_or_kept(bob, purpose, name):
    agreed = getattr(bob.terms.tasks, f"to_{purpose}")(
        *{"describe": (), "train": (1, "bob"), "evaluate": (1,)}[purpose]
    )
    reply = getattr(bob, purpose)(**{name: other_value(name, getattr(agreed, name))})
    assert refused(reply, f"{name.replace('_', '-')} of the task is")
    assert not bob.memory


@pytest.mark.parametrize("number", [0, ROUNDS + 1, 2**31])
def test_a_round_outside_of_the_run_is_refused(bob, number):
    assert refused(bob.train(1, round=number), f"round of the task is {number}, expected 1 to {ROUNDS}")


def test_a_task_of_another_round_than_its_broadcast_is_refused(bob):
    assert refused(bob.train(3, state=bob.after(1)), "broadcast is of round 1, expected 2")
    assert refused(bob.evaluate(3, state=bob.after(2)), "broadcast is of round 2, expected 3")


def test_a_broadcast_of_another_run_is_refused(bob):
    assert isinstance(bob.train(1), UpdateReply)
    assert refused(bob.train(1, state=replace(bob.start, run_id=b"R" * 16)), "run of the broadcast is 5252525252525252")


@pytest.mark.parametrize("change", [{"init_seed": 6}, {"peft_config": {"r": 2, "lora_alpha": 8}}, {"method": "dora"}])
def test_another_adapter_is_refused_unread(bob, change):
    other = replace(bob.spec, **change)
    assert refused(bob.ask(DescribeTask(bob.terms.tasks.to_describe(), other.text)), "is not one that the run")
    asked = bob.terms.tasks.to_train(1, "bob")
    strange = replace(bob.ranks, adapters=(replace(bob.ranks.master, spec=other),))
    broadcast = Broadcasts(bob.start, strange, bob.model.base_fingerprint).leading_from(b"", 0)
    assert refused(bob.ask(TrainTask(asked, broadcast)), "adapter spec of the broadcast is")
    assert not bob.memory


def test_a_broadcast_for_another_client_is_refused(bob):
    header = read_header(bob.broadcast(bob.start), max_bytes=1 << 20)
    task = TrainTask(bob.terms.tasks.to_train(1, "bob"), b"")
    bob.terms.check_header(header, task)
    bob.terms.check_header(replace(header, client="bob"), task)
    with pytest.raises(PolicyError, match="broadcast is for client 'alice', this client is 'bob'"):
        bob.terms.check_header(replace(header, client="alice"), task)


def test_a_round_that_is_asked_for_again_from_the_same_adapter_is_done_again(bob):
    bob.describe()
    layout = bob.terms.own.layout
    first = open_envelope(bob.train(2).update, layout=layout)
    for _ in range(10):
        assert open_envelope(bob.train(2).update, layout=layout).delta.digest() == first.delta.digest()


def test_a_round_is_asked_for_from_few_adapters_however_the_node_is_restarted(bob):
    most = LOOSE.max_repeats
    for number in range(most + 1):
        assert isinstance(bob.train(2, state=bob.after(1, amount=number)), UpdateReply)
    assert refused(bob.train(2, state=bob.after(1, amount=-1.0)), "asked for again from another adapter")
    assert isinstance(bob.train(2, state=bob.after(1, amount=most)), UpdateReply)
    assert isinstance(bob.train(3), UpdateReply)
    # Going back and forth gains nothing.
    assert refused(bob.train(1), "asked for again from another adapter")
    assert refused(bob.train(2, state=bob.after(1, amount=-2.0)), "asked for again from another adapter")


def test_too_little_data_for_the_policy_is_said_when_the_client_describes_itself(bob):
    bob.terms = replace(bob.terms, policy=Policy(min_examples=1000))
    assert refused(bob.describe(), "min-examples of this client's policy")
    assert refused(bob.train(1), "min-examples of this client's policy")


def test_an_update_that_is_too_large_is_not_sent(bob):
    bob.terms = replace(bob.terms, policy=LOOSE.model_copy(update={"max_upload_mb": 1e-4}))
    assert refused(bob.train(1), "max-upload-mb of this client's policy")


MANY = 6


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(name for name, rule in RULES.items() if rule.subject is not Subject.SQUARES))
def test_a_client_expects_what_the_server_of_every_rule_asks(federate, fake_model, rule):
    federation = federate(
        {f"c{number}": fake_model(number - 2.0, 7) for number in range(MANY)},
        rule=rule,
        rounds=ROUNDS,
        norm_bound=NormBound(NormPolicy.OFF),
        settings={"personalize": 0.3} if rule == "fedavg" else None,
    )
    plan, spec = federation.plan, federation.spec
    tasks = TaskSettings(plan, RULES[rule], new_factors=RULES[rule].new_factors(one_rank=True))
    channel = federation.channel
    for node, name in channel.names.items():
        terms = AgreedTerms(name, tasks, (spec,), spec, LOOSE)
        channel.participants[node] = Participant(name, federation.models[name], federation.memories[name], terms=terms)
    federation.run()
    assert len(federation.of_kind("update_received")) == MANY * ROUNDS
    assert not federation.of_kind("update_refused")


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_damaged_record_of_tasks_is_no_empty_one(damaged):
    memory = DictMemory()
    memory.save("asked", damaged)
    with pytest.raises(PolicyError, match="record of a run's tasks is damaged"):
        TaskHistory.recall(memory)

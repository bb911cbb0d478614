"""The four answers about a run, advice on its settings, and the command that repeats it."""

import shlex

import pytest
from flwr.common.config import parse_config_args

from plait.config import RunConfig
from plait.report.answers import advice, answers, repeat_command, run_facts
from plait.report.html import key_figures
from plait.report.summary import summarise
from tests.plait.conftest import (
    CONFIG,
    described,
    evaluated,
    finished,
    numbered,
    round_finished,
    run_started,
    small_events,
    view_of,
)


def worse(change: float, margin: float | None) -> list[dict[str, object]]:
    """The run with its last evaluation `change` above its base's loss."""
    events = small_events()
    evaluations = [event for event in events if event["event"] == "evaluated"]
    base = evaluations[0]["loss"]
    evaluations[-1] |= {"loss": base + change, "change": change, "change_margin": margin}  # type: ignore[operator]
    return events


def test_an_adapter_that_is_worse_than_its_base_is_called_so():
    view = view_of(worse(0.5, 0.1))
    first = answers(view)[0]
    assert (first.short, first.is_bad) == ("No", True)
    assert "worse than the base" in first.text
    assert view.is_better is False


def test_a_change_within_its_margin_is_no_success():
    view = view_of(worse(-0.05, 0.1))
    assert answers(view)[0].short == "Not measurably"
    assert view.is_better is None


def test_a_change_without_an_interval_is_said_to_have_none():
    few = "too few documents for an interval"
    assert few not in answers(view_of(worse(-0.5, 0.1)))[-1].text
    assert few in answers(view_of(worse(-0.5, None)))[-1].text


def test_the_facts_are_base_data_clients_and_what_somebody_set():
    events = small_events()
    events[0] |= {
        "config": {**RunConfig().to_table(), "rule": "median", "rank": 4, "out": "there"},
        "derived": ["rank"],
        "data": {"name": "notes", "fingerprint": "ab" * 32, "records": 7},
    }
    view = view_of(events)
    shared, differing = run_facts(view)
    assert shared == f"Base {view.start.base.name} · data: notes, 7 records · {view.client_count} clients"
    assert differing == "Not at their defaults: rule median"
    # With a group column the table has settings that mean nothing without one.
    events[0] |= {"config": RunConfig(group="patient").to_table() | {"group": ""}}
    assert run_facts(view_of(events)) == (shared,)


def test_no_advice_is_given_where_clients_found_their_rates():
    events = small_events()
    events[0]["config"] = {**RunConfig().to_table(), "learning-rate": 0.0}
    assert not [*advice(view_of(events))]


def watched(*events, kept_round):
    rounds = [round_finished(number, 2) for number in (1, 2, 3)]
    losses = [evaluated(number, loss, {"ann": loss}) for number, loss in enumerate((4.0, 3.5, 3.8, 3.6))]
    end = {**finished(3), "kept_round": kept_round}
    return view_of(numbered([run_started(), *rounds, *losses, *events, end]))


def test_a_step_that_was_taken_back_is_told_with_what_would_avoid_it():
    event = {"event": "step_taken_back", "round": 2, "worse": 0.3, "accepted": 1, "scale": 0.5}
    rose = "After round 2 the held-out loss was 0.300 above the best evaluation"
    half = tuple(advice(watched({**event, "taken_back": "half", "adapter": "ab" * 32}, kept_round=3)))
    assert half[:2] == (
        f"{rose}: half of the step since round 1 was taken back, and later steps count 0.5 times.",
        "A lower --learning-rate, or lr of --server-optimizer, would avoid that.",
    )
    (whole, *_) = advice(watched({**event, "taken_back": "all"}, kept_round=3))
    assert whole == f"{rose}: the step since round 1 was taken back."


def test_a_run_that_ended_early_and_kept_an_earlier_round_says_both():
    refused = {"event": "not_published", "round": 3, "kept": 1, "risen": 0.1, "above": 1}
    view = watched(
        {"event": "ended_early", "round": 3, "reason": "callback Enough asked for it"}, refused, kept_round=1
    )
    why = "its held-out loss is 0.100 above that of round 1; that of round 1 stays. Fewer --rounds may do as well."
    assert tuple(advice(view))[:2] == (
        "The run ended after round 3: callback Enough asked for it.",
        f"The adapter of round 3 is not published, because {why}",
    )
    assert view.final_evaluation.loss == 3.5
    assert summarise(view)["final_held_out_loss"] == 3.5
    assert summarise(view)["kept_round"] == 1


def test_the_command_gives_the_settings_that_differ_back_to_a_shell(hostile_run):
    config = view_of(hostile_run).start.config
    words = shlex.split(" ".join(repeat_command(config)))
    assert words[:2] == ["plait", "simulate"]
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--data"] == config["data"] == "a b'; rm -rf ~"
    usual = RunConfig().to_table()
    differing = {key: value for key, value in config.items() if value != usual.get(key, "")}
    assert given == {f"--{key}": str(value) for key, value in differing.items() if key != "out"}


@pytest.mark.parametrize("value", ["-x", "--rounds"])
def test_a_value_like_an_option_stays_a_value(value):
    assert repeat_command({"data": value}) == ("plait simulate", f"--data={value}")


@pytest.mark.parametrize("data", ["stdlib", "my data/it's.jsonl", 'a "b".jsonl', r"c:\\texts"])
def test_a_run_on_a_superlink_is_repeated_by_flower_with_the_data_that_it_named(data):
    config = {"data": "", "base": "tiny", "clients": 2, "keep-updates": True, "alpha": 0.5, "partition": "", "out": "x"}
    words = shlex.split(" ".join(repeat_command(config, data)))
    assert words[:3] == ["flwr", "run", "."]
    assert set(words[3::2]) == {"-c"}
    assert parse_config_args(words[4::2]) == {
        "data": data, "base": "tiny", "clients": 2, "keep-updates": True, "alpha": 0.5, "out": "DIR",
    }  # fmt: skip


JUDGED = {
    "event": "judged", "round": 3, "loss": 3.7, "change": -0.25, "change_margin": 0.125,
    "by_client": {"ann": {"loss": 3.7, "tokens": 50, "sequences": 8}},
}  # fmt: skip


def test_it_is_said_that_held_out_losses_decide_and_which_figure_does_not_follow_from_that():
    start = run_started(config={**CONFIG, "select": "accepted"})
    losses = [evaluated(number, loss, {"ann": loss, "bob": loss}) for number, loss in enumerate((4.0, 3.5, 3.6))]
    events = [start, described("ann", "bob"), *losses, round_finished(3, 2)]
    decide = "They also decide which steps are kept and what is published, so the loss is slightly optimistic."
    view = view_of(numbered([*events, JUDGED, finished(3)]))
    trust = answers(view)[-1].text
    final = (
        "Final figure, on 8 sequences of 1 of 2 clients that no decision looked at: loss 3.700 "
        "(\N{MINUS SIGN}0.250 ± 0.125 against the base)."
    )
    assert f"{decide} {final}" in trust
    assert ("final figure", "3.700", final) in key_figures(view)
    assert {key: value for key, value in summarise(view).items() if key.startswith("judged")} == {
        "judged_loss": 3.7,
        "judged_gain": 0.25,
        "judged_gain_interval": [0.125, 0.375],
        "judged_own_loss": None,
        "judged_sequences": 8,
    }
    none = "No client has a part of its data that decides nothing (--judge-part)."
    assert f"{decide} {none}" in answers(view_of(numbered([*events, finished(3)])))[-1].text
    assert none not in answers(view_of(numbered(events)))[-1].text
    events[0] = run_started(config={**CONFIG, "select": "last"})
    last = answers(view_of(numbered([*events, JUDGED])))[-1].text
    assert decide not in last
    assert final in last

from plait.ledger.events import UpdateReceived
from plait.report import wording
from plait.report.wording import given_rate, rates_sentence


def test_control_and_direction_characters_are_taken_out():
    assert wording.clean("a\x1b[31mb\u202ec\u200bd\x00\n e") == "a [31mb c d e"
    assert wording.clean("x" * 300, limit=10) == "x" * 9 + "…"


def updates(**figures):
    (count,) = {len(values) for values in figures.values()}
    return [
        UpdateReceived(
            round=1, client=f"client-{at}", uplink_bytes=1, **{name: values[at] for name, values in figures.items()}
        )
        for at in range(count)
    ]


def test_rates_that_clients_found_are_told_with_their_spread():
    found = rates_sentence(updates(learning_rate=[0.0031, 0.00252, 0.0028]), given=0.0)
    assert found == "Learning rate found by each client: 0.0028 (0.0025 to 0.0031)."


def test_a_rate_at_which_most_steps_are_shortened_is_called_too_high():
    said = rates_sentence(updates(learning_rate=[0.03] * 2, shortened=[1.0, 0.75]), given=0.03)
    assert said.startswith("A learning rate of 0.03 is too high: 88% of the local steps")


def test_a_rate_that_follows_slopes_is_each_clients_own_wherever_it_begins():
    assert given_rate({"learning-rate": 0.03, "lr-schedule": "constant"}) == 0.03
    assert given_rate({"learning-rate": 0.03}) == 0.03, "of a run that was begun before there were slopes"
    assert given_rate({"learning-rate": 0.0078, "lr-schedule": "slope"}) == 0.0, "as LoRA-XS has it by default"
    assert given_rate({"learning-rate": 0.0, "lr-schedule": "slope"}) == 0.0
    assert given_rate({}) is None

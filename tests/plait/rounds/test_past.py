import pytest

from plait.rounds.past import Past

RUN = b"r" * 16


def test_a_round_starts_from_what_the_round_before_left():
    past = Past(RUN).settled(1, b"one").settled(2, b"two")
    assert past.given_in(3) == (2, b"two")


def test_a_repeated_round_starts_from_where_it_started_the_first_time():
    once = Past(RUN).settled(1, b"one").settled(4, b"four")
    assert once.given_in(4) == (1, b"one")
    again = once.settled(4, b"five")
    assert again.given_in(4) == (1, b"one")
    assert again.given_in(5) == (4, b"five")


def test_it_survives_being_written_down():
    past = Past(RUN).settled(3, b"three").settled(7, b"")
    assert Past.from_bytes(past.to_bytes(), RUN) == past


@pytest.mark.parametrize("damage", [b"", b"x" * 40, b"x"])
def test_a_damaged_past_is_none(damage):
    whole = Past(RUN).settled(1, b"one").to_bytes()
    for data in (damage, whole[:-1], whole + b"x", None):
        assert Past.from_bytes(data, RUN) == Past(RUN)


def test_the_past_of_another_run_is_none():
    assert Past.from_bytes(Past(RUN).settled(1, b"one").to_bytes(), b"s" * 16) == Past(b"s" * 16)

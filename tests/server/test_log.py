import pytest

from plait.ledger import events
from server.monitoring import log_run_event, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("alice", "alice"),
        (3, "3"),
        ("ipv4:127.0.0.1:80", "ipv4:127.0.0.1:80"),
        ("two words", '"two words"'),
        ("a\nb", '"a\\nb"'),
        ("a=b", '"a=b"'),
        ('"', '"\\""'),
        ("é\x1b[0m", '"\\u00e9\\u001b[0m"'),
        ("", '""'),
    ],
)
def test_a_value_is_one_escaped_word(value, text):
    assert shown(value) == text


def test_who_takes_part_and_who_cannot_is_logged_with_the_reason_and_the_clients_own_words(logged):
    for event in (
        events.WaitingForClients(here=2, fit=1, unfit=1, wanted=2),
        events.ClientTurnedAway(node=1, client="carol", reason="unusable-data", detail="none\nevent=forged"),
        events.ClientsDescribed(clients=(events.DescribedClient(client="alice", train_examples=7),)),
        events.UpdateRefused(round=2, client="bob", reason="late", detail="no update", uplink_bytes=0),
        events.RoundStarted(round=1, cohort=("alice",)),
    ):
        log_run_event(event)
    assert [record.getMessage() for record in logged] == [
        "event=waiting-for-clients here=2 fit=1 unfit=1 wanted=2",
        r'event=cannot-take-part client=carol reason=unusable-data detail="none\nevent=forged"',
        "event=takes-part client=alice train_examples=7",
        'event=update-refused round=2 client=bob reason=late detail="no update"',
    ]

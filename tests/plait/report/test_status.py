from plait.report.status import status_tables

SAID = {
    "run": "first",
    "state": "training",
    "round": 2,
    "rounds": 5,
    "deadline_s": None,
    "eta_s": 95.0,
    "cohort": [
        {"name": "alice", "state": "answered", "waiting_s": None, "late_s": None, "doing": ""},
        {"name": "bob", "state": "away", "waiting_s": 12.0, "late_s": 3.0, "doing": ""},
    ],
    "late": ["bob"],
    "nodes": [
        {"name": "alice", "ready": True, "device": "cpu", "doing": "", "downlink_bytes": 2000, "uplink_bytes": 9}
    ],
    "nodes_away": [{"name": "bob", "away_s": 12.0, "downlink_bytes": 2500, "uplink_bytes": 900}],
    "unfit": [],
    "downlink_bytes": 2000,
    "uplink_bytes": 9,
}  # fmt: skip


def cells(table):
    return {row[0]: row[1:] for row in table.rows}


def test_an_operator_sees_the_round_who_is_late_bytes_and_time_to_go():
    run, clients = status_tables(SAID)
    told = {name: value for name, (value,) in cells(run).items()}
    assert (told["run"], told["round"], told["late"]) == ("first", "2 of 5", "bob")
    assert (told["sent"], told["received"]) == ("2.00 kB", "9 B")
    assert told["time left"] != "not known yet"
    assert "staleness" not in told
    stale = dict(status_tables({**SAID, "staleness": 1.25})[0].rows)
    assert stale["staleness"] == "1.2 rounds, mean of the newest updates"
    assert cells(clients)["alice"][0] == "answered"
    assert (cells(clients)["bob"][0], cells(clients)["bob"][-2:]) == ("away", ("2.50 kB", "900 B"))


def test_what_a_server_should_not_say_breaks_nothing():
    for said in (
        {},
        dict.fromkeys(SAID),
        {key: [None, 3, "x", {"name": 5}] for key in SAID},
        *({"told": value} for value in (7, [1], {"x": 7}, {"x\x1b[0m": {"text": "\x1b[0m"}}, {})),
        {"run": "\x1b[31mred", "cohort": [{"name": "a\nb", "waiting_s": "long"}], "uplink_bytes": True},
    ):
        for table in status_tables(said):
            assert all(cell.isprintable() for row in table.rows for cell in row)

from simulations.bench.row import Row


def test_ratios_above_one_mean_that_plait_is_better():
    less = Row("bits", 2.0, "bit", {"a": 3.0, "b": 5.0}, limit=1.0).to_json()
    assert (less["ratio_to_best_peer"], less["ratio_to_limit"]) == (1.5, 0.5)
    more = Row("speed", 8.0, "MB/s", {"a": 4.0, "b": 2.0}, limit=16.0, more_is_better=True).to_json()
    assert (more["ratio_to_best_peer"], more["ratio_to_limit"]) == (2.0, 0.5)


def test_there_is_no_ratio_to_nothing():
    alone = Row("distance", -0.1, "bit", {"a": 1.0}).to_json()
    assert alone == {
        "row": "distance",
        "value": -0.1,
        "unit": "bit",
        "peers": {"a": 1.0},
        "limit": None,
        "ratio_to_best_peer": None,
        "ratio_to_limit": None,
    }


def test_a_row_is_a_line_for_people():
    assert str(Row("copies", 1234.5, "MB/s")) == "copies: 1,234 MB/s"
    beside = Row("copies", 2.0, "MB/s", {"numpy": 1.0}, limit=4.0)
    assert str(beside) == "copies: 2 MB/s (numpy 1, limit 4)"

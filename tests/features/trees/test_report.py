"""What people read of a tree names regions where that of a flat run names clients."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from matplotlib.text import Text

from plait.features.trees.events import RegionSummed
from plait.report import plots
from plait.report.status import status_tables
from plait.report.tables import report_tables
from plait.report.theme import LIGHT
from plait.rounds import events
from plait.rounds.ledger import Ledger
from plait.rounds.rates import rates_sentence
from plait.rounds.run_progress import LiveProgress, RunProgress
from tests.plait.conftest import CONFIG, Event, numbered, view_of
from tests.plait.report.test_html import page_of
from tests.plait.report.test_plots import crowd
from tests.plait.report.test_status import SAID, cells
from tests.plait.rounds.conftest import started
from tests.plait.rounds.test_rates import updates


def in_tree(events: Sequence[Event]) -> list[Event]:
    """The same of two regions of three clients each, one of them refused, and a third one turned away."""
    of_regions = [
        {**event, "clients": [{**client, "clients": 3} for client in event["clients"]]}  # type: ignore[union-attr]
        if event["event"] == "clients_described"
        else event
        for event in events[1:]
    ]
    refused = {"event": "update_refused", "round": 1, "client": "ann", "reason": "late", "uplink_bytes": 9}
    away = {"event": "client_turned_away", "client": "carol", "reason": "unusable-data", "detail": "no labels"}
    first = {**events[0], "config": {**CONFIG, "tree": "2x3"}, "features": ["trees"]}
    return numbered([first, *of_regions, refused, away])


def test_in_a_tree_the_page_names_regions(small_run) -> None:
    source = page_of(view_of(in_tree(small_run)))
    assert re.findall("<summary>(.*egion.*)</summary>", source) == ["Regions", "Regions that could not take part"]
    assert "client" not in " ".join(re.findall('<summary>.*</summary>|label="[^"]*"', source)).lower()
    assert "6 clients in 2 regions" in source


def test_how_to_join_a_served_run_is_said_to_clients_or_to_regions(small_run) -> None:
    for run, command in ((small_run, "plait client --kit KIT"), (in_tree(small_run), "plait region --kit KIT")):
        served = {**run[0], "config": {**run[0]["config"], "data": ""}}
        assert re.findall("plait (?:client|region) --kit KIT", page_of(view_of([served, *run[1:]]))) == [command]


def test_in_a_tree_every_table_names_regions(small_run) -> None:
    tables = report_tables(view_of(in_tree(small_run)))
    titles = [table.title for table in tables]
    assert {"Held-out loss by region", "Regions that could not take part", "Refused updates"} <= set(titles)
    assert not [text for table in tables for text in (table.title, *table.headings) if "client" in text.lower()]
    assert sum("region" in table.headings for table in tables) == 4


@pytest.mark.slow
def test_in_a_tree_every_plot_names_regions(small_run) -> None:
    view = view_of(in_tree(small_run))
    for shown, said in ((view, "Data of each region"), (crowd(view, 60), "90 % of 62 regions")):
        drawn = [plot(shown, LIGHT) for plot in (plots.clients, plots.loss_by_round, plots.bytes_by_round)]
        texts = " ".join(text.get_text() for figure in drawn for text in figure.findobj(Text))
        assert said in texts
        assert "client" not in re.sub(r"client-\d+", "", texts)


def test_in_a_tree_an_operator_sees_regions():
    run, regions, unfit = status_tables({**SAID, "peer": "region", "unfit": [{"name": "carol"}]})
    assert "regions attached" in cells(run)
    assert (regions.title, regions.headings[0], unfit.headings[0]) == ("2 regions", "region", "region")
    assert status_tables({**SAID, "peer": "<b>"})[1].title == "2 clients"


def test_of_regions_it_says_whose_rates_they_are():
    found = rates_sentence(updates(learning_rate=[0.003, 0.002]), given=0.0, peer="region")
    assert found.startswith("Learning rate found by the clients of each region: 0.0025 ")


def test_in_a_tree_it_waits_for_regions_also_after_it_was_resumed(tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl")
    summary = LiveProgress(tmp_path / "ledger.jsonl", RunProgress(run="first", rounds=3))
    ledger.append(started().model_copy(update={"config": {"tree": "2x3"}, "features": ("trees",)}))
    assert summary().state == "waiting for regions"
    ledger.append(events.Resumed())
    assert (summary().peer, summary().state) == ("region", "waiting for regions")
    ledger.append(RegionSummed(round=1, clients=3, received=3, weight=3.0, digest="", uplink_bytes=9))
    assert summary().state == "waiting for the server above"
    ledger.close()

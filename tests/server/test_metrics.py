import json
import math
import re
import socket
import time
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from plait.ledger import events
from plait.ledger.run_now import RunNow
from server import monitoring as server_metrics
from server.monitoring import Metrics, MetricsServer
from tests.plait.rounds.conftest import started


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def server(metrics):
    server = MetricsServer("127.0.0.1:0", metrics)
    yield server
    server.close()


def status(server: MetricsServer, *hosts: str) -> int:
    lines = "".join(f"Host: {host}\r\n" for host in hosts)
    with socket.create_connection(("127.0.0.1", server.address.port), timeout=180) as connection:
        connection.sendall(f"GET /metrics HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        return int(connection.makefile("rb").readline().split()[1])


def test_on_loopback_no_web_page_reads_it_by_a_name_that_leads_here(server, metrics):
    for host in ("localhost:9441", "127.0.0.1", "[::1]:9441"):
        assert status(server, host) == 200
    for hosts in (["evil.example"], [f"evil.example:{server.address.port}"], [], ["localhost", "evil.example"], [""]):
        assert status(server, *hosts) == 403
    open_to_all = MetricsServer("0.0.0.0:0", metrics)
    try:
        assert status(open_to_all, "plait-server:9441") == 200
    finally:
        open_to_all.close()


@pytest.mark.slow
def test_connections_that_do_not_finish_are_bounded_and_cut_so_that_others_come_in(metrics, monkeypatch):
    monkeypatch.setattr(server_metrics, "_SCRAPE_S", 0.5)
    server = MetricsServer("127.0.0.1:0", metrics)
    slow = [socket.create_connection(("127.0.0.1", server.address.port), timeout=180) for _ in range(40)]
    try:
        for one in slow:
            with suppress(OSError):
                one.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ")
        # Each is cut, although it says something now and then.
        end, left = time.monotonic() + 60, slow
        while left := [one for one in left if is_open(one)]:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert status(server, "localhost") == 200
    finally:
        for one in slow:
            one.close()
        server.close()


def is_open(connection: socket.socket) -> bool:
    try:
        connection.send(b"x")
    except OSError:
        return False
    return True


def test_figures_of_the_run_are_read_at_every_scrape(metrics):
    now = RunNow()
    metrics.follow_run(lambda: nullcontext(now))
    value = metrics.registry.get_sample_value
    assert math.isnan(value("plait_held_out_loss"))
    assert math.isnan(value("plait_run_eta_seconds"))
    now.take(started().model_copy(update={"config": {"rounds": 5}}))
    now.take(events.RoundFinished(round=2, wall_s=6.0))
    now.take(events.Evaluated(round=2, loss=1.5))
    now.take(events.RoundStarted(round=3, cohort=("ann", "bob")))
    now.take(events.UpdateRefused(round=3, client="bob", reason="late"))
    assert (value("plait_round"), value("plait_rounds"), value("plait_rounds_done")) == (3, 5, 2)
    assert (value("plait_round_seconds"), value("plait_run_eta_seconds")) == (6, 18)
    assert (value("plait_held_out_loss"), value("plait_cohort_clients"), value("plait_cohort_lost")) == (1.5, 2, 1)


def test_every_metric_of_the_dashboard_exists_and_is_read_with_its_labels(metrics):
    board = json.loads((Path(__file__).parents[2] / "server" / "grafana.json").read_text())
    collected = metrics.registry.collect()
    names = {f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in collected}
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked.append(board["templating"]["list"][1]["query"]["query"])
    found = {name for expression in asked for name in re.findall(r"plait_\w+", expression)}
    # None that is not there, and none that is left out.
    assert found == names
    for expression in asked:
        assert set(re.findall(r"by \((\w+)\)|{(\w+)=~", expression)) <= {("reason", ""), ("", "instance")}
    for number, panel in enumerate(board["panels"], 1):
        assert panel["id"] == number
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24

import socket
import urllib.error
import urllib.request

import pytest

from plait.errors import ConfigError, MachineError
from server.metrics import Metrics, MetricsServer


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def server(metrics):
    server = MetricsServer("127.0.0.1:0", metrics)
    yield server
    server.close()


def test_the_page_shows_what_was_counted_and_nothing_of_the_process(server, metrics):
    metrics.downlink_bytes.inc(5)
    metrics.enrolments_refused.labels("unknown_key").inc()
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        lines = reply.read().decode().splitlines()

    assert "plait_downlink_bytes_total 5.0" in lines
    assert 'plait_enrolments_refused_total{reason="unknown_key"} 1.0' in lines
    assert all(line.startswith(("plait_", "# HELP plait_", "# TYPE plait_")) for line in lines)


@pytest.mark.parametrize("path", ["/", "/metricsx", "/../etc/passwd"])
def test_there_is_no_other_page(server, path):
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://{server.address}{path}", timeout=20)
    assert caught.value.code == 404
    caught.value.close()


def test_rubbish_and_hanging_up_do_no_harm(server, capfd):
    for said in (b"", b"\xff\xff\r\n\r\n", b"GET /metrics"):
        with socket.create_connection((server.address.host, server.address.port), timeout=20) as connection:
            connection.sendall(said)
    with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=20) as reply:
        assert reply.status == 200
    assert capfd.readouterr().err == ""


def test_a_taken_port_is_said_in_one_line(server, metrics):
    with pytest.raises(MachineError, match="the port is in use"):
        MetricsServer(str(server.address), metrics)
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        MetricsServer("9090", metrics)

from __future__ import annotations

import grpc
import pytest

from client.calls import what_failed


class Failed(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)"),
        (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:1.2.3.4:5"),
        (grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>: 'x'"),
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"),
        (grpc.StatusCode.CANCELLED, "Locally cancelled by application!"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (grpc.StatusCode.UNIMPLEMENTED, "Method not found!"),
    ],
)
def test_what_grpc_says_of_itself_is_told_in_plain_words(code, details) -> None:
    told = what_failed(Failed(code, details))
    assert "server" in told or "broken off" in told
    assert details not in told
    assert code.name.lower() not in told


@pytest.mark.parametrize(
    ("code", "details"),
    [
        (grpc.StatusCode.ABORTED, "no chunk for 30 s, resume it later"),
        (grpc.StatusCode.UNAVAILABLE, "server cannot read its register of clients"),
    ],
)
def test_what_the_server_says_is_told_on_one_line(code, details) -> None:
    assert what_failed(Failed(code, f"{details}\n")) == f"{details} "

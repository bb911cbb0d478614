"""An operator's calls over gRPC, with a desk that has one run."""

import pytest

from plait.address import Address
from plait.errors import MachineError, PeerError
from plait.features.standing.calls import OperatorCalls
from plait.features.standing.operations import calls_of
from plait.transport.protocol import CHUNK_BYTES


class OneRun:
    def __init__(self, *files):
        self._files = files

    def files(self, run):
        assert run == "run-1"
        return [(f"adapter/{path.name}.json", path) for path in self._files]


def calls(channel):
    return OperatorCalls(Address.parse(channel.address, what="server"), None)


def test_a_file_of_several_parts_and_an_empty_one_arrive_whole(make_channel, tmp_path):
    large, empty = tmp_path / "large", tmp_path / "empty"
    large.write_bytes(bytes(range(256)) * (CHUNK_BYTES // 128) + b"end")
    empty.touch()
    channel = make_channel(stays=True, more=calls_of(OneRun(large, empty)))
    fetched = calls(channel).fetch("run-1", tmp_path / "fetched", max_gb=1)
    assert [(tmp_path / "fetched" / file).read_bytes() for file in fetched] == [large.read_bytes(), b""]


def test_a_file_that_the_server_cannot_read_is_named_and_nothing_is_left(make_channel, tmp_path):
    channel = make_channel(stays=True, more=calls_of(OneRun(tmp_path / "gone")))
    with pytest.raises(MachineError, match=r"server cannot read 'adapter/gone.json': No such file"):
        calls(channel).fetch("run-1", tmp_path / "fetched", max_gb=1)
    assert not (tmp_path / "fetched").exists()


def test_a_run_that_is_larger_than_allowed_is_not_fetched(make_channel, tmp_path):
    """By what its files have together, before the last of them is received."""
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_bytes(bytes(600_000))
    channel = make_channel(stays=True, more=calls_of(OneRun(*files)))
    with pytest.raises(
        PeerError, match=r"has 0.0012 GB with 'adapter/two.json', expected at most 0.001; give --max-gb"
    ):
        calls(channel).fetch("run-1", tmp_path / "fetched", max_gb=0.001)
    assert not (tmp_path / "fetched").exists()
    assert len(calls(channel).fetch("run-1", tmp_path / "fetched", max_gb=0.0012)) == 2

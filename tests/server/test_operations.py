"""An operator's calls over gRPC, with a desk that has one run."""

import pytest

from plait.address import Address
from plait.errors import MachineError
from plait.transport.operations import OperatorCalls
from plait.transport.protocol import CHUNK_BYTES


class OneRun:
    def __init__(self, *files):
        self._files = files

    def files(self, run):
        assert run == "run-1"
        return [(f"adapter/{path.name}", path) for path in self._files]


def calls(grid):
    return OperatorCalls(Address.parse(grid.address, what="server"), None)


def test_a_file_of_several_parts_and_an_empty_one_arrive_whole(make_grid, tmp_path):
    large, empty = tmp_path / "large", tmp_path / "empty"
    large.write_bytes(bytes(range(256)) * (CHUNK_BYTES // 128) + b"end")
    empty.touch()
    fetched = calls(make_grid(stays=True, desk=OneRun(large, empty))).fetch("run-1", tmp_path / "fetched")
    assert [(tmp_path / "fetched" / file).read_bytes() for file in fetched] == [large.read_bytes(), b""]


def test_a_file_that_the_server_cannot_read_is_named_and_nothing_is_left(make_grid, tmp_path):
    grid = make_grid(stays=True, desk=OneRun(tmp_path / "gone"))
    with pytest.raises(MachineError, match=r"server cannot read 'adapter/gone': No such file"):
        calls(grid).fetch("run-1", tmp_path / "fetched")
    assert not (tmp_path / "fetched").exists()

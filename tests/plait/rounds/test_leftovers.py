import stat

import numpy as np
import pytest

from plait.errors import MachineError
from plait.rounds.memory import IRREPLACEABLE, MUST_LAST, ClientState, Kept, keep_only_what_lasts

RUN = b"r" * 16


def test_of_the_only_copies_the_own_adapter_alone_outlasts_a_run(tmp_path):
    for key in (*IRREPLACEABLE, "adapter", "spec"):
        before, after = (Kept(number, {"values": np.full(999, number, np.float32)}) for number in (4, 5))
        (tmp_path / key).write_bytes(ClientState(RUN, before, after).to_bytes())
    keep_only_what_lasts(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter", "own", "spec"]
    left = ClientState.from_bytes((tmp_path / "own").read_bytes())
    assert (left.run_id, left.after.round, left.before.arrays) == (RUN, 5, {})
    assert list(left.after.arrays["values"]) == [5] * 999
    assert (tmp_path / "own").stat().st_size < 4 * 999 + 400
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o600
    content = (tmp_path / "own").read_bytes()
    keep_only_what_lasts(tmp_path)
    assert (tmp_path / "own").read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"no past", RUN + bytes(40)])
def test_what_is_no_own_adapter_is_left_as_it_is(tmp_path, content):
    (tmp_path / "own").write_bytes(content)
    keep_only_what_lasts(tmp_path)
    assert (tmp_path / "own").read_bytes() == content


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    keep_only_what_lasts(tmp_path / "missing")


def test_what_cannot_be_removed_is_said(tmp_path):
    (tmp_path / "residual" / "in the way").mkdir(parents=True)
    with pytest.raises(MachineError, match="cannot remove what a run left in"):
        keep_only_what_lasts(tmp_path)


def test_an_account_of_private_records_outlives_a_run_that_its_server_calls_over(tmp_path):
    for key in ("record-privacy", "moments"):
        (tmp_path / key).write_bytes(b"x")
    keep_only_what_lasts(tmp_path, besides=MUST_LAST)
    assert [path.name for path in tmp_path.iterdir()] == ["record-privacy"]
    # In a simulation, whose operator says so himself, its secret is of no further use to anybody.
    keep_only_what_lasts(tmp_path)
    assert not [*tmp_path.iterdir()]

"""A run under masks from the command line: kill -9, what verify recomputes, what its reader gets, who refuses it."""

import json
import subprocess

import pytest

from tests.commands import Command, resuming, run_command
from tests.plait.cli.conftest import write_jsonl
from tests.plait.cli.test_resume import WEIGHTS, wait_for

pytestmark = pytest.mark.slow  # several runs in processes of their own

OPTIONS = (
    "--partition", "natural:author", "--clients", 3, "--base", "tiny", "--rounds", 2, "--local-steps", 2,
    "--batch-size", 2, "--seq-len", 32, "--rank", 2, "--secure-aggregation", "--keep-updates",
)  # fmt: skip


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """An undisturbed run, and one that was killed while updates came in, and continued."""
    folder = tmp_path_factory.mktemp("masked")
    data = write_jsonl(folder / "data.jsonl")
    command = ("simulate", "--data", data, *OPTIONS, "--out")
    run_command(*command, folder / "whole").check_returncode()
    with Command(*command, folder / "killed", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        wait_for(folder / "killed", "update_received", 2)
        run.kill()
    run_command(*resuming(folder / "killed")).check_returncode()
    return folder


def test_a_masked_run_that_is_killed_ends_bit_identical(masked):
    assert (masked / "killed" / WEIGHTS).read_bytes() == (masked / "whole" / WEIGHTS).read_bytes()


def test_its_rounds_are_recomputed_from_the_sums(masked, plait):
    for run in ("whole", "killed"):
        ran = plait("verify", masked / run, "--json")
        assert ran.code == 0, ran.err
        assert json.loads(ran.out)["replayed"] == 2


def test_a_server_refuses_what_it_cannot_keep(plait, tmp_path):
    ran = plait(
        "server", "--insecure", "--min-clients", 3, "--base", "tiny", "--secure-aggregation", "--out", tmp_path / "run"
    )
    assert ran.code == 2
    assert "secure-aggregation is true and kit is 'none', expected secure-aggregation false or plait server" in ran.err
    assert "no authority vouches for the clients' keys here" in ran.err
    assert not (tmp_path / "run" / "ledger.jsonl").exists()

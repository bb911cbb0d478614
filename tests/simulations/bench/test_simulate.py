import pytest
import torch

from plait.training.bases import LocatedBase, locate_base
from plait.training.device import Compute
from simulations.bench.simulate import Workload, rows, stock_app


@pytest.fixture(scope="module")
def work() -> Workload:
    tiny: LocatedBase = locate_base("tiny")
    compute = Compute(torch.device("cpu"), torch.float32)
    return Workload(tiny, compute, clients=3, rounds=2, local_steps=1, batch_size=1, seq_len=32, characters=4000)


def test_the_peer_knows_nothing_of_plait():
    sources = [path.read_text() for path in (stock_app() / "stock").glob("*.py")]
    assert len(sources) == 4
    assert not any("import plait" in source or "from plait" in source for source in sources)


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.extra("flower-simulation")
def test_both_simulations_reach_the_same_loss(work, tmp_path):
    found = {row.row.removeprefix(f"{work}: "): row for row in rows(work, tmp_path, repetitions=1)}
    assert len(found) == 6
    assert all(row.value > 0 and len(row.peers) == 1 for row in found.values())
    after, before = found["loss after 2 rounds on text not seen"], found["loss of the base on it"]
    (theirs,) = after.peers.values()
    assert after.value == pytest.approx(theirs, abs=0.05)
    assert after.value < before.value

import numpy as np
import pytest

from plait.adapters import AdapterSpec, AdapterState, AdapterTask, Layout
from plait.adapters.method import AdapterRequest
from plait.aggregation import Side, geometry_of
from plait.errors import ConfigError, PlaitError
from plait.exporting.source import is_node_state, open_node, open_personal, with_own_side
from plait.ledger.events import ClientsDescribed
from plait.rounds.client_pipeline import kept_lead, kept_side, with_own
from plait.rounds.memory import ClientState, Kept
from plait.training.blueprint import design, read_base_config
from tests.plait.conftest import recorded
from tests.plait.rounds.conftest import started


@pytest.fixture
def spec() -> AdapterSpec:
    shapes: dict[str, list[int]] = {}
    for module, (d_out, d_in) in {"q": (7, 5), "v": (4, 6)}.items():
        shapes[f"base_model.model.{module}.lora_A.weight"] = [2, d_in]
        shapes[f"base_model.model.{module}.lora_B.weight"] = [d_out, 2]
    return AdapterSpec("lora", {"r": 2, "lora_alpha": 6}, AdapterTask.CAUSAL_LM, (), Layout.of(shapes), 0)


def drawn(spec: AdapterSpec, seed: int) -> AdapterState:
    values = np.random.default_rng(seed).normal(size=spec.layout.size)
    return AdapterState(spec.layout, values.astype(np.float32))


@pytest.mark.parametrize("side", list(Side))
def test_what_is_exported_is_what_the_client_evaluates(spec, side):
    shared, geometry = drawn(spec, 0), geometry_of(spec)
    own = kept_side(drawn(spec, 1), geometry, side)
    assert (
        with_own_side(spec, shared, own.arrays["side"], side).digest() == with_own(shared, own, geometry, side).digest()
    )


def test_a_side_of_another_adapter_is_refused(spec):
    with pytest.raises(PlaitError, match="own side has 3 values, expected a rank times 11"):
        with_own_side(spec, drawn(spec, 0), np.zeros(3, np.float32), Side.B)


@pytest.mark.slow
def test_a_node_exports_what_it_holds_with_its_own_side(tiny, tmp_path):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    spec = design(config, AdapterRequest(rank=2, alpha=4), task=AdapterTask.CAUSAL_LM, seed=3).spec
    shared, theirs, geometry = drawn(spec, 0), drawn(spec, 1), geometry_of(spec)
    own = kept_side(theirs, geometry, Side.B)
    (tmp_path / "spec").write_text(spec.text)
    (tmp_path / "adapter").write_bytes(shared.flat.tobytes())
    (tmp_path / "own").write_bytes(ClientState(b"r" * 16, after=own).to_bytes())
    assert is_node_state(tmp_path)
    source = open_node(tmp_path, base="tiny")
    assert source.spec.digest == spec.digest
    assert source.state.digest() == with_own(shared, own, geometry, Side.B).digest()
    lead = kept_lead(theirs, 0.75)
    (tmp_path / "own").write_bytes(ClientState(b"r" * 16, after=lead).to_bytes())
    mixed = open_node(tmp_path, base="tiny").state.flat
    np.testing.assert_allclose(mixed, 0.25 * shared.flat + 0.75 * theirs.flat, rtol=0, atol=1e-6)
    # A side as long as a whole adapter is told from it by its tag.
    other = Kept(arrays={"side": lead.arrays["lead"]}, tags={"kind": "own side", "side": "B"})
    (tmp_path / "own").write_bytes(ClientState(b"r" * 16, after=other).to_bytes())
    with pytest.raises(PlaitError, match="own side has"):
        open_node(tmp_path, base="tiny")
    with pytest.raises(ConfigError, match="names no base; give --base"):
        open_node(tmp_path, base="")
    (tmp_path / "own").write_bytes(ClientState(b"r" * 16, after=own).to_bytes()[:-1])
    with pytest.raises(PlaitError, match=r"own' is damaged"):
        open_node(tmp_path, base="tiny")


def test_a_run_whose_clients_all_have_the_one_adapter_is_refused(by_plait, tmp_path):
    by_plait("adapter")
    (tmp_path / "config.toml").write_text('rule = "fedavg"\n')
    begun = started().model_copy(update={"config": {"rule": "fedavg"}})
    recorded(tmp_path / "ledger.jsonl", [begun, ClientsDescribed(clients=())])
    with pytest.raises(ConfigError, match=r"gives all clients the same adapter, expected fedsa .*leave out --client"):
        open_personal(tmp_path, "ann")

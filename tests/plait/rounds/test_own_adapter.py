import numpy as np
import pytest

from plait.adapters import AdapterState, Layout
from plait.rounds.own_adapter import own_adapter_bytes, own_start, read_own_adapter

LAYOUT = Layout.of({"a": (2, 3)})


def state(value):
    return AdapterState(LAYOUT, np.full(6, value, np.float32))


def test_a_round_starts_between_the_shared_adapter_and_the_clients_own():
    kept = own_adapter_bytes(state(3), 0.75)
    assert own_start(state(1), kept, 0.75).flat.tolist() == [2.5] * 6
    assert own_start(state(1), kept, 0.0).flat.tolist() == [1.0] * 6
    assert read_own_adapter(kept, 6)[0] == 0.75


@pytest.mark.parametrize("kept", [b"", b"12345678", own_adapter_bytes(AdapterState.zeros(Layout.of({"a": (7,)})), 0.5)])
def test_where_there_is_none_of_this_adapter_the_shared_one_counts(kept):
    assert own_start(state(1), kept, 0.75).flat.tolist() == [1.0] * 6
    assert read_own_adapter(kept, 6) is None


def test_every_client_is_drawn_to_the_mean_and_judged_by_its_own(federate):
    federation = federate(rounds=4, settings={"own_share": 0.75})
    state = federation.run()
    plan, shared = federation.plan, federation.initial.flat.astype(np.float64)
    own, names = {}, sorted(federation.models)
    sizes = np.array([federation.models[name].train_examples for name in names], np.float64)

    def start(name):
        return shared + 0.75 * (own[name] - shared) if name in own else shared

    for number in range(1, plan.rounds + 1):
        starts = {name: start(name) for name in names}
        own = {name: federation.train_alone(name, starts[name], number) for name in names}
        shared = shared + sizes @ np.array([own[name] - starts[name] for name in names]) / sizes.sum()
    np.testing.assert_allclose(state.adapter.flat, shared, rtol=0, atol=1e-6)
    # All took part in every round, so the shared adapter is the mean of theirs.
    np.testing.assert_allclose(
        shared, sizes @ np.array([own[name] for name in names]) / sizes.sum(), rtol=0, atol=1e-12
    )
    last = federation.of_kind("evaluated")[-1]["by_client"]
    for name in names:
        loss = float(np.mean((start(name) - federation.models[name].target) ** 2))
        assert last[name]["loss"] == pytest.approx(loss, rel=1e-4)

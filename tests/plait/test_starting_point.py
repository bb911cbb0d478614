import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plait.adapters import AdapterState, AdapterTask, Parent, norm, save_peft_directory, subtract
from plait.adapters.method import AdapterRequest
from plait.adapters.peft_reading import load_peft_directory
from plait.aggregation import Geometry, geometry_of
from plait.compress.downlink import take_step
from plait.config import config_from_table
from plait.errors import BaseMismatchError, ConfigError
from plait.federation import beginning_of
from plait.rounds.broadcasts import Broadcasts, starting_state
from plait.rounds.run_state import RankedAdapter, Ranks, initial_state
from plait.run import resolve
from plait.settle import settle
from plait.training.bases import LocatedBase, locate_base
from plait.training.blueprint import design, read_base_config
from plait.wire.codecs import Rate
from plait.wire.codecs.plain import Fp32
from plait.wire.envelope import open_envelope

Saved = Callable[..., Path]


@pytest.fixture(scope="module")
def tiny() -> LocatedBase:
    return locate_base("tiny")


@pytest.fixture
def saved(tiny: LocatedBase, tmp_path: Path) -> Saved:
    """A trained adapter, as a run publishes it."""

    def save(name: str, fingerprint: str = "", **options: object) -> Path:
        config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
        request = AdapterRequest(**{"rank": 2, "alpha": 4, **options})  # pyright: ignore[reportArgumentType]
        spec = design(config, request, task=AdapterTask.CAUSAL_LM, seed=0, weights=tiny.directory).spec
        generator = np.random.default_rng(len(name))
        state = AdapterState(spec.layout, generator.normal(0, 0.1, spec.layout.size).astype(np.float32))
        base = tiny.reference
        if fingerprint:
            base = type(base)(base.name, base.revision, fingerprint)
        save_peft_directory(tmp_path / name, spec=spec, state=state, base=base, card="")
        return tmp_path / name

    return save


def ranks_for(tiny: LocatedBase, **settings: object) -> tuple[Ranks, Callable[[], object]]:
    table = {"base": "tiny", "rank": 2, "alpha": 4.0, **settings}
    run = resolve(settle(config_from_table(table)), tiny)
    return run.ranks, lambda: beginning_of(run)


def products(state: AdapterState, geometry: Geometry) -> dict[str, np.ndarray]:
    return {
        pair.module: pair.scale * pair.b_of(state.flat).astype(np.float64) @ pair.a_of(state.flat)
        for pair in geometry.pairs
    }


def state_in(folder: Path, adapter: RankedAdapter | None = None) -> tuple[AdapterState, Geometry]:
    loaded = load_peft_directory(folder)
    spec = adapter.spec if adapter else loaded.spec()
    return AdapterState.from_tensors(spec.layout, loaded.tensors), geometry_of(spec)


def test_nothing_named_is_the_seed_s_own_beginning(tiny):
    ranks, begin = ranks_for(tiny)
    state = initial_state(bytes(16), ranks)
    assert starting_state(state, begin(), ranks, bytes(32), codec=Rate(1)) == state


@pytest.mark.parametrize("method", ["lora", "ia3", "vera", "full"])
def test_the_same_adapter_goes_on_with_the_same_values_and_is_named(tiny, saved, method):
    folder = saved("one", method=method)
    ranks, begin = ranks_for(tiny, method=method, **{"init-adapter": str(folder)})
    start = begin()
    expected, _ = state_in(folder, ranks.master)
    assert start.adapter.digest() == expected.digest()
    digest = hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert start.parents == (Parent(digest),)
    state = starting_state(initial_state(bytes(16), ranks), start, ranks, bytes(32), codec=Fp32())
    assert state.adapter.digest() == state.shadow.digest() == expected.digest()


@pytest.mark.slow
def test_clients_derive_the_start_from_the_seed_and_a_keyframe(tiny, saved):
    ranks, begin = ranks_for(tiny, **{"init-adapter": str(saved("one"))})
    start, initial = begin(), ranks.master.initial
    state = starting_state(initial_state(bytes(16), ranks), start, ranks, bytes(32), codec=Rate(1))
    assert state.adapter.digest() == start.adapter.digest()
    opened = open_envelope(Broadcasts(state, ranks, bytes(32)).leading_from(b"", 0), layout=ranks.master.spec.layout)
    assert opened.header.relative_to == initial.digest()
    assert opened.encoding.bits_per_parameter < 9
    shadow = take_step(initial, opened.delta, opened.encoding.codec)
    assert shadow.digest() == state.shadow.digest()
    moved = norm(subtract(start.adapter, initial))
    assert 0 < norm(subtract(start.adapter, shadow)) < 0.01 * moved


def test_several_are_added_by_weight_and_scale_module_by_module(tiny, saved):
    one, other = saved("one"), saved("other", rank=3, alpha=9)
    ranks, begin = ranks_for(tiny, rank=5, alpha=20.0, **{"init-adapter": f"{one}=2,{other}=-0.5"})
    start = begin()
    assert start.lost < 1e-6
    left, right = products(*state_in(one)), products(*state_in(other))
    for module, product in products(start.adapter, ranks.master.geometry).items():
        np.testing.assert_allclose(product, 2 * left[module] - 0.5 * right[module], atol=1e-6)


@pytest.mark.slow
def test_a_rank_too_low_takes_the_best_of_it_and_says_what_it_loses(tiny, saved):
    ranks, begin = ranks_for(tiny, rank=1, **{"init-adapter": str(saved("one"))})
    whole, part = products(*state_in(saved("one"))), products(begin().adapter, ranks.master.geometry)
    dropped = total = 0.0
    for module, matrix in whole.items():
        strengths = np.linalg.svd(matrix, compute_uv=False)
        dropped, total = dropped + np.sum(strengths[1:] ** 2), total + np.sum(strengths**2)
        assert np.linalg.norm(matrix - part[module]) == pytest.approx(np.linalg.norm(strengths[1:]), rel=1e-4)
    assert begin().lost == pytest.approx(np.sqrt(dropped / total), rel=1e-4)


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"method": "ia3"}, {}, r"is made by ia3 .*expected plain LoRA.*nearest: continue from it"),
        ({}, {"method": "ia3"}, "differs from what --method ia3"),
        ({}, {"target-modules": "q_proj"}, "which the new adapter does not.*nearest: --target-modules all-linear"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest(tiny, saved, options, settings, message):
    folder = saved("one", **options)
    with pytest.raises(ConfigError, match=message):
        ranks_for(tiny, **{"init-adapter": str(folder), **settings})[1]()


def test_an_adapter_of_another_base_is_refused(tiny, saved):
    folder = saved("one", fingerprint="ab" * 32)
    with pytest.raises(BaseMismatchError, match=r"was trained on base abababab.*nearest: give --base its own"):
        ranks_for(tiny, **{"init-adapter": str(folder)})[1]()


def test_adapters_to_begin_with_have_a_weight_each():
    config = config_from_table({"init-adapter": "runs/a, b=0.5,odd=name,c=-1"})
    assert [(str(path), weight) for path, weight in config.init_adapters] == [
        ("runs/a", 1.0), ("b", 0.5), ("odd=name", 1.0), ("c", -1.0),
    ]  # fmt: skip

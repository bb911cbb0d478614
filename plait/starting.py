"""Start a run from existing adapters, and continue training them.

Several are combined by weights: the sum of weight times scale times B A, module by module, approximated at the new
adapter's rank, with the loss reported.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plait.adapters import AdapterSpec, AdapterState, Parent
from plait.adapters.method import in_base
from plait.adapters.peft import WEIGHTS_FILE
from plait.adapters.peft_reading import load_peft_directory, load_state
from plait.aggregation import Geometry, LowRank, geometry_of
from plait.aggregation.factors import balanced
from plait.errors import BaseMismatchError, ConfigError, PeerError
from plait.exporting.plain_lora import lora_fault
from plait.rounds.broadcasts import StartingPoint
from plait.rounds.run_state import RankedAdapter
from plait.run import Run


@dataclass(frozen=True, eq=False)
class _Given:
    """One adapter that the user named."""

    folder: Path
    weight: float
    spec: AdapterSpec
    state: AdapterState
    digest: str

    def plain(self) -> Geometry:
        """Its pairs."""
        fault = lora_fault(self.spec)
        if fault is not None:
            raise ConfigError(
                f"adapter '{self.folder}' {fault}, expected plain LoRA: only products of factors can be composed; "
                "nearest: continue from it alone, with its own method and rank"
            )
        return geometry_of(self.spec)


def starting_point_of(run: Run) -> StartingPoint:
    """The starting point of a run."""
    adapter, base_fingerprint = run.ranks.master, run.base.reference.fingerprint
    given = [_open(folder, weight, base_fingerprint) for folder, weight in run.config.init_adapters]
    parents = tuple(Parent(each.digest, each.weight) for each in given)
    if len(given) == 1 and given[0].weight == 1.0:
        state = _as_it_is(given[0], adapter)
        if state is not None:
            return StartingPoint(parents, state)
    state, lost = _composed(given, adapter)
    return StartingPoint(parents, state, lost)


def _open(path: Path, weight: float, base_fingerprint: str) -> _Given:
    folder = _folder(path)
    if not folder.is_dir():
        raise ConfigError(f"init-adapter has '{path}', which is not a directory of a run or of PEFT")
    loaded = load_peft_directory(folder)
    stated = loaded.base_fingerprint
    if stated is not None and stated != base_fingerprint:
        raise BaseMismatchError(
            f"adapter '{path}' was trained on base {stated[:16]}, expected {base_fingerprint[:16]}, the run's; "
            "nearest: give --base its own"
        )
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
    return _Given(path, weight, loaded.spec(), loaded.state, digest)


def _folder(path: Path) -> Path:
    return path / "adapter" if (path / "adapter").is_dir() else path


def _as_it_is(given: _Given, adapter: RankedAdapter) -> AdapterState | None:
    """The values of an adapter of exactly the run's kind; None for LoRA of another rank or scaling factor."""
    wanted = adapter.spec
    if given.spec.labels and given.spec.labels != wanted.labels:
        raise ConfigError(
            f"labels of adapter '{given.folder}' are {', '.join(given.spec.labels)}, expected those of the data: "
            f"{', '.join(wanted.labels) or 'none'}"
        )
    try:
        return load_state(_folder(given.folder), wanted)
    except PeerError as error:
        if adapter.geometry.pairs and not adapter.geometry.others:
            return None
        raise ConfigError(
            f"adapter '{given.folder}' differs from what --method {wanted.method} and its settings make: {error}"
        ) from error


def _composed(given: Sequence[_Given], adapter: RankedAdapter) -> tuple[AdapterState, float]:
    """The adapter of the run's rank that is nearest to the sum, and the part that it cannot hold."""
    if not adapter.geometry.pairs or adapter.geometry.others:
        raise ConfigError(
            f"method is '{adapter.spec.method}' and init-adapter names adapters of another shape, several, or with "
            "weights, expected plain LoRA: only products of factors can be added; nearest: one adapter of that method"
        )
    total = _sum_of(given, adapter.geometry)
    flat = adapter.initial.flat.copy()
    dropped = whole = 0.0
    for pair in adapter.geometry.pairs:
        product = total.get(pair.module)
        if product is None:
            continue
        spare = pair.a_of(adapter.initial.flat).astype(np.float64)
        factored = balanced(product, rank=pair.rank, scale=pair.scale, spare=spare)
        pair.a_of(flat)[:], pair.b_of(flat)[:] = factored.a, factored.b
        dropped, whole = dropped + factored.dropped**2, whole + product.norm() ** 2
    return AdapterState(adapter.spec.layout, flat), math.sqrt(dropped / whole) if whole else 0.0


def _sum_of(given: Sequence[_Given], wanted: Geometry) -> dict[str, LowRank]:
    total: dict[str, LowRank] = {}
    for each in given:
        for pair in each.plain().pairs:
            there = wanted.by_module.get(pair.module)
            if there is None:
                raise ConfigError(
                    f"adapter '{each.folder}' changes '{in_base(pair.module)}', which the new "
                    "adapter does not; give --target-modules that cover it; nearest: --target-modules all-linear"
                )
            if (there.d_out, there.d_in) != (pair.d_out, pair.d_in):
                raise BaseMismatchError(
                    f"adapter '{each.folder}' changes '{pair.module}' as {pair.d_out} x {pair.d_in}, the base has it "
                    f"as {there.d_out} x {there.d_in}"
                )
            b, a = (side.astype(np.float64) for side in (pair.b_of(each.state.flat), pair.a_of(each.state.flat)))
            product = LowRank(each.weight * pair.scale * b, a)
            before = total.get(pair.module)
            total[pair.module] = before.plus(product).fitted() if before else product
    return total

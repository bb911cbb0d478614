"""Withdrawal over gRPC: the others are served again, and end with the bits of a simulation without the client."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

import plait
from plait.api.withdrawing import carry_out, plan_of
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.trust.provision import provision
from tests.attending import served, shares_of
from tests.features.conftest import NAMES, SMALL, rows


@pytest.mark.slow
def test_the_others_are_served_again_and_end_with_the_bits_of_a_run_without_it(tmp_path: Path) -> None:
    provision(tmp_path / "kits", NAMES, ("localhost",), now=datetime.now(UTC))
    training = {key: value for key, value in SMALL.items() if key != "quiet"} | {"local_steps": 1, "rounds": 1}
    kits, shares = tmp_path / "kits", shares_of(rows())
    assert served(tmp_path / "run", shares, tmp_path, kits=kits, clients=3, **training).finished
    directory = RunDirectory.find(tmp_path / "run")
    plan = plan_of(directory, recorded_settings(directory), "eve")

    def by_hand(_: RunConfig) -> None:
        raise ConfigError("serve the others")

    with pytest.raises(ConfigError, match="serve the others"):
        carry_out(plan, by_hand)
    assert plan.again
    again = {key: value for key, value in plan.again.to_table().items() if key != "out"}
    given = {key: value for key, value in again.items() if value != RunConfig().to_table().get(key)}
    del shares["eve"]
    settings = {key.replace("-", "_"): value for key, value in given.items()}
    assert served(plan.out, shares, tmp_path, kits=kits, **settings).finished
    tombstone = carry_out(plan_of(directory, recorded_settings(directory), "eve"), by_hand)
    plait.simulate(
        [row for row in rows() if row["author"] != "eve"], out=tmp_path / "never", partition="natural:author",
        clients=2, quiet=True, **training,  # type: ignore[arg-type]
    )  # fmt: skip
    weights = "adapter/adapter_model.safetensors"
    assert (plan.out / weights).read_bytes() == (tmp_path / "never" / weights).read_bytes()
    assert tombstone.adapter == plait.open_run(tmp_path / "never").events[-1].adapter  # type: ignore[attr-defined]

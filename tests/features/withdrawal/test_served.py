"""Withdrawal over gRPC: the others are served again, and end with the bits of a simulation without the client."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

import plait
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.features.withdrawal.withdrawing import carry_out, plan_of
from plait.rounds.recorded_settings import recorded_settings
from plait.rounds.run_directory import RunDirectory
from plait.trust.provision import provision
from tests.features.conftest import NAMES, SMALL, rows


def served(out: Path, folder: Path, names: tuple[str, ...], settings: dict[str, object]) -> None:
    policy = folder / "policy.toml"
    policy.write_text("min-examples = 1\nmin-tokens = 1\n")
    with plait.Server(out=out, kit=folder / "kits/server", quiet=True, **settings) as server:  # type: ignore[arg-type]
        address = server.address.replace("127.0.0.1", "localhost")
        clients = [
            plait.Client(
                [row for row in rows() if row["author"] == name],
                server=address, state=folder / "state", policy=policy, dtype="float32", quiet=True,
                kit=folder / "kits/clients" / name,
            )
            for name in names
        ]  # fmt: skip
        for client in clients:
            client.start()
        assert server.wait(timeout_s=600).finished
        for client in clients:
            client.wait(timeout_s=60)


@pytest.mark.slow
def test_the_others_are_served_again_and_end_with_the_bits_of_a_run_without_it(tmp_path: Path) -> None:
    provision(tmp_path / "kits", NAMES, ("localhost",), now=datetime.now(UTC))
    training = {key: value for key, value in SMALL.items() if key != "quiet"} | {"local_steps": 1, "rounds": 1}
    served(tmp_path / "run", tmp_path, NAMES, {**training, "clients": 3})
    directory = RunDirectory.find(tmp_path / "run")
    plan = plan_of(directory, recorded_settings(directory), "eve")

    def by_hand(_: RunConfig) -> None:
        raise ConfigError("serve the others")

    with pytest.raises(ConfigError, match="serve the others"):
        carry_out(plan, by_hand)
    assert plan.again
    again = {key: value for key, value in plan.again.to_table().items() if key != "out"}
    given = {key: value for key, value in again.items() if value != RunConfig().to_table().get(key)}
    served(plan.out, tmp_path, ("ada", "bob"), {key.replace("-", "_"): value for key, value in given.items()})
    tombstone = carry_out(plan_of(directory, recorded_settings(directory), "eve"), by_hand)
    plait.simulate(
        [row for row in rows() if row["author"] != "eve"], out=tmp_path / "never", partition="natural:author",
        clients=2, quiet=True, **training,  # type: ignore[arg-type]
    )  # fmt: skip
    weights = "adapter/adapter_model.safetensors"
    assert (plan.out / weights).read_bytes() == (tmp_path / "never" / weights).read_bytes()
    assert tombstone.adapter == plait.open_run(tmp_path / "never").events[-1].adapter  # type: ignore[attr-defined]

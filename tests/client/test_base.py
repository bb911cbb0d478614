from __future__ import annotations

from pathlib import Path

import pytest

from client.base import node_run_config, open_workplace
from client.settings import check_settings
from client.workplace import Run
from plait.adapters import fingerprint_base
from plait.config import RunConfig
from plait.errors import BaseMismatchError, ConfigError
from plait.training.bases import locate_base


def settings(tmp_path: Path, **changes: object):
    return check_settings(server="localhost:1", data="my.jsonl", insecure=True, state=tmp_path, **changes)  # type: ignore[arg-type]


def a_run(base: str, fingerprint: bytes) -> Run:
    return Run(7, 5, RunConfig(base=base).to_table(), fingerprint)


def test_what_concerns_the_machine_is_its_operators_choice(tmp_path: Path) -> None:
    sent = RunConfig(base="theirs", revision="main", device="cuda:7", dtype="float16", threads=64, rank=3).to_table()
    own = node_run_config(sent, settings(tmp_path, base="mine", device="cpu", dtype="float32", threads=1))
    changed = {key for key in sent if sent[key] != own[key]}
    assert changed == {"base", "revision", "device", "dtype", "threads"}
    assert (own["base"], own["revision"], own["threads"], own["rank"]) == ("mine", "", 1, 3)
    assert node_run_config(sent, settings(tmp_path))["base"] == "theirs"


def test_a_server_cannot_choose_what_code_runs_here(tmp_path: Path) -> None:
    sent = RunConfig(trainer="os:system").to_table()
    with pytest.raises(ConfigError, match="give --trainer os:system to agree"):
        node_run_config(sent, settings(tmp_path))
    assert node_run_config(sent, settings(tmp_path, trainer="os:system"))["trainer"] == "os:system"
    with pytest.raises(ConfigError, match="plait itself"):
        node_run_config(RunConfig().to_table(), settings(tmp_path, trainer="mine:build"))


def test_a_node_says_what_it_holds(tmp_path: Path) -> None:
    fingerprint = bytes.fromhex(fingerprint_base(locate_base("tiny").directory))
    told: list[str] = []
    place = open_workplace(
        a_run("tiny", fingerprint), settings(tmp_path, device="cpu", max_memory_gb=0.001), progress=told.append
    )
    assert place.capacity.base_fingerprint == fingerprint
    assert "lora" in place.capacity.methods
    assert place.capacity.memory_bytes == 1_000_000
    assert place.capacity.device.startswith("cpu, ")


def test_another_base_than_the_runs_is_found_before_work_begins(tmp_path: Path) -> None:
    with pytest.raises(BaseMismatchError, match="give --base the model that the run adapts"):
        open_workplace(a_run("tiny", bytes(32)), settings(tmp_path), progress=lambda _: None)


def test_a_base_that_is_called_otherwise_here_can_be_given(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give --base DIRECTORY"):
        open_workplace(a_run("/models/of/the/server", bytes(32)), settings(tmp_path), progress=lambda _: None)

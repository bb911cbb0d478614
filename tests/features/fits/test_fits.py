"""How a training step would fit into memory, from a base's configuration alone."""

from __future__ import annotations

import json

import pytest

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.training.base_lookup import locate_config
from plait.training.blueprint import design, read_base_config
from plait.training.memory_plan import peak_bytes, size_of


@pytest.mark.slow
def test_doctor_plans_training_for_a_stated_memory(plait) -> None:
    asked = ("doctor", "--base", "smollm2-135m", "--rank", 8, "--batch-size", 8, "--dtype", "bfloat16", "--json")
    roomy, tight, none = (
        {finding["what"]: finding for finding in json.loads(plait(*asked, "--max-memory-gb", memory).out)}
        for memory in (8, 1.2, 0.2)
    )
    assert roomy["blocks computed twice"]["found"] == "0 of 30"
    assert int(tight["blocks computed twice"]["found"].split()[0]) > 0
    assert tight["predicted peak"]["advice"] == ""
    assert "does not fit" in none["predicted peak"]["found"]
    assert "what would fit: " in none["predicted peak"]["advice"]


@pytest.mark.slow
def test_doctor_takes_the_machines_memory_and_counts_the_step_that_slopes_keep(
    plait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.machine.memory_bytes", lambda: 6_000_000_000)
    asked = ("doctor", "--base", "tiny", "--rank", 64, "--seq-len", 512, "--dtype", "float32", "--json")
    found = {finding["what"]: finding["found"] for finding in json.loads(plait(*asked, "--device", "cpu").out)}
    assert found["memory"] == "6.0 GB of cpu"
    config = read_base_config(locate_config("tiny"), Task.CAUSAL_LM)
    spec = design(config, AdapterRequest(rank=64), task=Task.CAUSAL_LM, seed=0).spec
    size = size_of(config, spec, value_bytes=4, on_cpu=True)
    assert size is not None
    assert size.training.follows_slopes
    assert found["predicted peak"] == f"{peak_bytes(size, sequences=4, seq_len=512, recomputed=0) / 1e9:.2f} GB"


@pytest.mark.slow
def test_doctor_plans_only_what_it_can_predict(plait) -> None:
    for what in (("tiny", "--method", "dora"), ("mistral-7b", "--seq-len", 4097)):
        ran = plait("doctor", "--base", *what)
        assert ran.code == 2
        assert "memory is predicted for lora and qlora" in ran.err
    for memory in ("inf", "nan"):
        ran = plait("doctor", "--base", "tiny", "--max-memory-gb", memory)
        assert ran.code == 2
        assert f"max-memory-gb is {memory}, expected a finite number" in ran.err
    ran = plait("doctor", "--base", "tiny", "--server", "localhost:1")
    assert "plait doctor --base has no option --server" in " ".join(ran.err.split())

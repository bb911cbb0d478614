"""How a training step would fit into memory, from a base's configuration alone."""

from __future__ import annotations

import json

import pytest

from plait.adapters import Task
from plait.adapters.methods import AdapterRequest
from plait.training.bases import locate_config
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
def test_doctor_plans_the_share_of_each_device_of_a_list(plait, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("doctor", "--base", "tiny", "--batch-size", 5, "--seq-len", 64, "--dtype", "float32", "--json")
    said = {finding["what"]: finding["found"] for finding in json.loads(plait(*asked, "--device", "cpu,cpu").out)}
    assert said["devices"] == "cpu, cpu: the base on each, and up to 3 sequences of every batch"
    assert said["batch"] == "3 x 64"
    assert said["predicted peaks"].startswith(said["predicted peak"] + " of the first, with the optimizer, 0.")
    monkeypatch.setattr("plait.training.device.budgets_of", lambda *_: (8_000_000_000, 6_000_000_000))
    said = {finding["what"]: finding["found"] for finding in json.loads(plait(*asked, "--device", "cpu,cpu").out)}
    assert said["memory"] == "8.0 GB of cpu, 6.0 GB of cpu"
    # What no device says is the machine's, in parts.
    monkeypatch.setattr("plait.training.device.budgets_of", lambda *_: (4_000_000_000, 0))
    monkeypatch.setattr("plait.machine.memory_bytes", lambda: 6_000_000_000)
    said = {finding["what"]: finding["found"] for finding in json.loads(plait(*asked, "--device", "cpu,cpu").out)}
    assert said["memory"] == "4.0 GB of cpu, 3.0 GB of cpu"


@pytest.mark.slow
def test_doctor_plans_a_base_over_a_list_of_devices(plait) -> None:
    asked = ("doctor", "--base", "llama-3.1-8b", "--dtype", "bfloat16", "--json", "--max-memory-gb", 28)
    said = {finding["what"]: finding["found"] for finding in json.loads(plait(*asked, "--device", "cpu,cpu").out)}
    assert said["devices"].startswith("one base over all, blocks of each: cpu ")
    assert said["predicted peaks"].count("cpu ") == 2
    assert "does not fit" not in said["predicted peak"]


@pytest.mark.slow
def test_doctor_counts_the_memory_of_a_device_once_and_the_step_that_slopes_keep(
    plait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.machine.memory_bytes", lambda: 6_000_000_000)
    asked = ("doctor", "--base", "tiny", "--rank", 64, "--seq-len", 512, "--dtype", "float32", "--json")
    one, two = (
        {finding["what"]: finding["found"] for finding in json.loads(plait(*asked, "--device", device).out)}
        for device in ("cpu", "cpu,cpu")
    )
    assert (one["memory"], two["memory"]) == ("6.0 GB of cpu", "3.0 GB of cpu, and of each other")
    config = read_base_config(locate_config("tiny"), Task.CAUSAL_LM)
    spec = design(config, AdapterRequest(rank=64), task=Task.CAUSAL_LM, seed=0).spec
    size = size_of(config, spec, value_bytes=4, on_cpu=True)
    assert size is not None
    assert size.training.follows_slopes
    assert one["predicted peak"] == f"{peak_bytes(size, sequences=4, seq_len=512, recomputed=0) / 1e9:.2f} GB"


@pytest.mark.slow
def test_doctor_plans_only_what_it_can_predict(plait) -> None:
    for what in (("tiny", "--method", "dora"), ("mistral-7b", "--seq-len", 4097)):
        ran = plait("doctor", "--base", *what)
        assert ran.code == 2
        assert "memory is predicted for lora and qlora" in ran.err
    for memory in ("inf", "nan"):
        ran = plait("doctor", "--base", "tiny", "--max-memory-gb", memory)
        assert (ran.code, ran.err) == (2, f"error: max-memory-gb is {memory}, expected 0 or more\n")
    ran = plait("doctor", "--base", "tiny", "--server", "localhost:1")
    assert "plait doctor --base has no option --server" in " ".join(ran.err.split())

"""How a training step would fit into memory, from a base's configuration alone."""

import json

import pytest


@pytest.mark.slow
def test_doctor_plans_training_for_a_stated_memory(plait):
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
def test_doctor_traces_a_step_that_is_not_fused(plait):
    for what, fits in ((("tiny", "--method", "dora"), True), (("mistral-7b", "--seq-len", 4097), False)):
        ran = plait("doctor", "--base", *what, "--max-memory-gb", 30, "--json")
        found = {finding["what"]: finding["found"] for finding in json.loads(ran.out)}
        assert "by the model's own modules" in found["batch"]
        assert ("does not fit" in found["predicted peak"]) is not fits


@pytest.mark.slow
def test_doctor_plans_only_what_it_can_predict(plait):
    ran = plait("doctor", "--base", "tiny", "--method", "prompt")
    assert ran.code == 2
    assert "memory of 'prompt' on a base of type llama cannot be predicted" in ran.err
    ran = plait("doctor", "--base", "tiny", "--server", "localhost:1")
    assert "plait doctor --base has no option --server" in " ".join(ran.err.split())

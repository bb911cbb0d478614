from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plait.adapters.method import Option
from plait.adapters.methods import METHODS
from plait.ledger.ledger import read_lines
from plait.training.bases import locate_base

TOKENS = torch.tensor([[5, 17, 300, 41, 999, 1203, 8, 64]])


# PEFT still hands its prefix over under a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        pytest.param(name, marks=pytest.mark.extra("qlora")) if method.quantised else name
        for name, method in METHODS.items()
    ],
)
def test_a_federated_round_of_every_method_learns_and_what_it_leaves_loads_in_plain_peft(
    plait, jsonl: Path, tmp_path: Path, method: str
) -> None:
    done = plait(
        "simulate", "--data", jsonl, "--partition", "natural:author", "--clients", 2, "--base", "tiny", "--rounds", 2,
        "--local-steps", 3, "--batch-size", 4, "--seq-len", 32, "--rank", 4,
        "--method", f"{method}:virtual-tokens=4" if Option.TOKENS in METHODS[method].options else method,
        "--dtype", "float32", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    summary = json.loads(done.out)
    assert summary["final_held_out_loss"] < summary["base_held_out_loss"]
    # What travelled is what the method trains, at about the one bit of the default, and never the base.
    sent = [event["payload_bytes"] for event in read_lines(tmp_path / "run" / "ledger.jsonl")
            if event["event"] == "update_received"]  # fmt: skip
    assert max(sent) < summary["trainable_parameters"] / 8 * 1.5 + 2000
    tiny = locate_base("tiny")
    base = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False).eval()
    with torch.no_grad():
        bare = base(input_ids=TOKENS).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # VeRA: its matrices come from a seed
        adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()
    with torch.no_grad():
        got = adapted(input_ids=TOKENS).logits[:, -TOKENS.shape[1] :]
    assert (got - bare).abs().max() > 1e-3

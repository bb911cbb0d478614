"""A whole run on a GGUF file: what it publishes is an adapter of the file's model, and exports as one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import gguf
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plait.rounds.events import Event, RoundFinished
from plait.rounds.ledger import Ledger
from plait.training import bases, gguf_base
from tests.plait.training.test_gguf_base import LLAMA_3, divided, divisors, small, write


@pytest.mark.slow
def test_a_run_on_a_file_is_resumed_to_the_same_adapter_of_its_model_and_exports_it(
    plait, jsonl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (bases, gguf_base):
        monkeypatch.setattr(module, "cache_directory", lambda: tmp_path / "cache")
    settings = {
        "head_dim": 32, "rope_parameters": LLAMA_3, "tie_word_embeddings": True, "max_position_embeddings": 16384,
    }  # fmt: skip
    model = write(tmp_path / "base.gguf", "F32", model=small(**settings), also=divided(divisors(32, 500000.0, 32.0)))
    options = (
        "--data", jsonl, "--partition", "natural:author", "--clients", "2", "--base", tmp_path / "base.gguf",
        "--rank", "2", "--local-steps", "1", "--batch-size", "1", "--seq-len", "32", "--dtype", "float32",
        "--learning-rate", "0.05", "--rounds", "2", "--max-held-out-sequences", "1",
    )  # fmt: skip
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    ran = plait("simulate", *options, "--out", run)
    assert ran.code == 0, ran.err
    append = Ledger.append

    def interrupted(self: Ledger, event: Event) -> object:
        if isinstance(event, RoundFinished) and event.round == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return append(self, event)

    with monkeypatch.context() as once:
        once.setattr(Ledger, "append", interrupted)
        assert plait("simulate", *options, "--out", stopped).code == 130
    ran = plait("resume", stopped)
    assert ran.code == 0, ran.err
    weights = [(each / "adapter" / "adapter_model.safetensors").read_bytes() for each in (run, stopped)]
    assert weights[0] == weights[1]

    (directory,) = (tmp_path / "cache" / "bases").glob("gguf-*")
    tokens = torch.randint(5, 250, (1, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(tokens).logits
        adapted = PeftModel.from_pretrained(model, run / "adapter").eval()(tokens).logits
    assert (adapted - plain).abs().max() > 1e-3
    assert plait("export", run, tmp_path / "merged", "--to", "merged").code == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32, trust_remote_code=False)
    with torch.no_grad():
        torch.testing.assert_close(merged(tokens).logits, adapted, rtol=1e-3, atol=1e-3)
    ran = plait("export", run, tmp_path / "for llama.cpp", "--to", "gguf")
    assert f"llama-cli --model {directory / 'model.gguf'} --lora" in ran.out
    assert "convert_hf_to_gguf" not in ran.out
    written = gguf.GGUFReader(tmp_path / "for llama.cpp" / "adapter.gguf")
    assert "blk.0.attn_q.weight.lora_a" in {tensor.name for tensor in written.tensors}

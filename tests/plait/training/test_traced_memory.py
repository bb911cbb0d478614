"""Memory of a step by the model's own modules, traced without values, against what a process has."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

# Of a process of its own, because others' peaks do not count. Prints what was predicted, and the peak.
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import torch
from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.system.machine import peak_rss_bytes
from plait.training.blueprint import design, read_base_config
from plait.training.device import Compute, use_threads
from plait.training.examples import Example
from plait.training.learner import TrainingInputs
from plait.training.losses import StepMemory
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.traced_memory import traced_bytes
from plait.training.trainer import train_steps
from plait.wire.settings import Settings

use_threads(1)
directory, tokens = Path(sys.argv[1]), 512
config = read_base_config(directory, AdapterTask.CAUSAL_LM)
made = design(config, AdapterRequest("lora", rank=16), task=AdapterTask.CAUSAL_LM, seed=0)
base = ResidentBase(directory, "00" * 32, Compute(torch.device("cpu"), torch.bfloat16), seq_len=tokens)
model = base.with_adapter(made.spec, made.initial)
row = np.arange(tokens, dtype=np.int32)
settings = Settings(
    local_steps=2, batch_size=2, gradient_accumulation_steps=1, seq_len=tokens, learning_rate=1e-3, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1, seed=0,
)
inputs = TrainingInputs([Example(row, row)] * 2, settings, made.initial)
train_steps(model, adapter_parameters(model, made.spec.layout), inputs, memory=StepMemory())
how = {"sequences": 2, "seq_len": tokens, "dtype": torch.bfloat16, "on_cpu": True}
print(traced_bytes(config, made.spec, **how)[2], peak_rss_bytes())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_a_traced_step_takes_what_a_process_has(tmp_path):
    shape = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}
    config = Gemma3TextConfig(vocab_size=200_000, **shape, num_key_value_heads=2, head_dim=64, sliding_window=256)
    with torch.device("meta"):
        model = Gemma3ForCausalLM(config)
    ones = {name: torch.ones(each.shape, dtype=torch.bfloat16) for name, each in model.named_parameters()}
    ones.pop("lm_head.weight", None)  # tied
    save_file(ones, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.dtype = torch.bfloat16
    config.save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predicted, peak = map(int, done.stdout.split())
    without_tokenizer = predicted - 1_000 * config.vocab_size
    assert without_tokenizer == pytest.approx(peak, rel=0.15)

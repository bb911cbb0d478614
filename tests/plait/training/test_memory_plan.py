"""What a step is predicted to need, and what a plan gives up for a budget."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache
from transformers.generation import utils

from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.errors import MachineError
from plait.objectives.formula import GRPO
from plait.training import memory_plan
from plait.training import resident as resident_module
from plait.training.bases import LocatedBase, locate_config
from plait.training.blueprint import read_base_config, shape_of
from plait.training.completions import completions_of
from plait.training.device import CONTEXT_BYTES
from plait.training.examples import Example
from plait.training.losses import StepMemory
from plait.training.memory_plan import (
    ModelSize,
    Training,
    completions_bytes,
    least_bytes,
    longest_that_fits,
    over_one_sequence,
    peak_bytes,
    plan_step,
    sampling_bytes,
    size_of,
    what_would_fit,
)
from plait.training.resident import BareBase, ResidentBase
from tests.plait.training.conftest import SETTINGS as SMALL
from tests.plait.training.conftest import designed, held

SETTINGS = replace(SMALL, local_steps=1, batch_size=4, seq_len=24, seed=3)


CONSTANT = Training(follows_slopes=False)


def sized(base: str, *, rank: int = 16) -> ModelSize:
    config = read_base_config(locate_config(base), AdapterTask.CAUSAL_LM)
    spec = shape_of(config, AdapterRequest(rank=rank), task=AdapterTask.CAUSAL_LM, seed=0).spec
    return size_of(config, spec, value_bytes=2, training=CONSTANT)


@pytest.fixture(scope="module")
def eight() -> ModelSize:
    return sized("llama-3.1-8b")


def test_for_completions_that_do_not_fit_a_step_gives_up_nothing(eight):
    drawing = replace(eight, training=replace(CONSTANT, drawn=64, judged=8))
    sampled = sampling_bytes(drawing, seq_len=2048)
    assert sampled > 64 * 2048 * 65 * 8 * 128 * 2 + drawing.resident_bytes
    how = {"batch": 1, "seq_len": 2048}
    plan = plan_step(drawing, **how, budget=sampled)
    assert (plan.peak_bytes, plan.fits, plan.recomputed, plan.cuts) == (sampled, False, 0, 1)
    assert plan_step(drawing, **how, budget=int(1.07 * sampled) + 1).fits
    assert plan_step(over_one_sequence(drawing), **how, budget=sampled).fits, "others may be shorter"
    # An evaluation's are beside no optimizer.
    judging = replace(eight, training=replace(CONSTANT, judged=64))
    assert sampled - sampling_bytes(judging, seq_len=2048) == 12 * eight.adapter


# Of a process of its own, because others' peaks do not count. Prints what was predicted, and the peak.
PROGRAM = """
import sys
import numpy as np
import torch
from plait.adapters import AdapterTask
from plait.adapters.method import AdapterRequest
from plait.system.machine import peak_rss_bytes
from plait.training.blueprint import design, read_base_config
from plait.training.device import Compute, use_threads
from plait.training.examples import Example
from plait.training.learner import TrainingInputs
from plait.training.memory_plan import Training, peak_bytes, size_of
from plait.training.resident import ResidentBase, adapter_parameters
from plait.training.losses import StepMemory
from plait.training.trainer import train_steps
from plait.wire.settings import Settings
from pathlib import Path

use_threads(1)
directory = Path(sys.argv[1])
config = read_base_config(directory, AdapterTask.CAUSAL_LM)
made = design(config, AdapterRequest("lora", rank=16), task=AdapterTask.CAUSAL_LM, seed=0)
base = ResidentBase(directory, "00" * 32, Compute(torch.device("cpu"), torch.bfloat16), seq_len=128)
model = base.with_adapter(made.spec, made.initial)
row = np.arange(128, dtype=np.int32)
settings = Settings(
    local_steps=2, batch_size=1, gradient_accumulation_steps=1, seq_len=128, learning_rate=1e-3, weight_decay=0.0,
    max_grad_norm=1.0, held_out_fraction=0.1, max_held_out_sequences=1, seed=0,
)
train_steps(
    model, adapter_parameters(model, made.spec.layout),
    TrainingInputs([Example(row, row)], settings, made.initial),
    memory=StepMemory(recomputed=2),
)
size = size_of(config, made.spec, value_bytes=2, on_cpu=True, training=Training.of(settings))
print(peak_bytes(size, sequences=1, seq_len=128, recomputed=2), peak_rss_bytes())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_a_prediction_is_within_a_tenth_of_what_a_process_on_a_cpu_has(tmp_path):
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=16_000, **shape, tie_word_embeddings=True, dtype="bfloat16")
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    ones = {name: torch.ones(each.shape, dtype=torch.bfloat16) for name, each in model.named_parameters()}
    save_file(ones, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predicted, peak = map(int, done.stdout.split())
    assert predicted == pytest.approx(peak, rel=0.1)


def test_a_plan_gives_up_no_more_than_it_must(eight):
    needs = [peak_bytes(eight, sequences=4, seq_len=2048, recomputed=n) for n in range(eight.layers + 1)]
    assert needs == sorted(needs, reverse=True)
    assert plan_step(eight, batch=4, seq_len=2048, budget=200 * 10**9).recomputed == 0
    some = plan_step(eight, batch=4, seq_len=2048, budget=30 * 10**9)
    assert some.fits
    assert (some.cuts, some.peak_bytes) == (1, needs[some.recomputed])
    assert needs[some.recomputed - 1] * 1.07 > 30e9, "one block fewer would not fit"
    tight = plan_step(eight, batch=4, seq_len=2048, budget=22 * 10**9)
    assert tight.fits
    assert tight.cuts > 1


def test_what_does_not_fit_is_told_what_would(eight):
    budget = 12 * 10**9
    assert not plan_step(eight, batch=1, seq_len=2048, budget=budget).fits
    assert what_would_fit(eight, seq_len=2048, budget=budget).startswith("--method qlora, or ")
    four = replace(eight, four_bits=True)
    longest = longest_that_fits(four, budget=budget)
    assert plan_step(four, batch=1, seq_len=longest, budget=budget).fits
    assert not plan_step(four, batch=1, seq_len=longest + 128, budget=budget).fits
    assert f"--seq-len {longest}" in what_would_fit(four, seq_len=2 * longest, budget=budget)


def test_the_embedding_stays_on_the_host_only_where_that_makes_it_fit(eight):
    four, card = replace(eight, four_bits=True), 8 * 10**9 - CONTEXT_BYTES
    how = {"batch": 1, "seq_len": 2048}
    assert not plan_step(four, **how, budget=card).fits
    four = replace(four, host_has_room=True)
    plan = plan_step(four, **how, budget=card)
    assert plan.fits
    assert (plan.embedding_on_host, plan.cuts) == (True, 1)
    assert peak_bytes(four, sequences=1, seq_len=2048, recomputed=32, embedding_on_host=True) < 7.3e9
    assert not plan_step(four, **how, budget=10 * 10**9).embedding_on_host
    assert "--seq-len" in what_would_fit(four, seq_len=1 << 16, budget=card)
    assert what_would_fit(four, seq_len=2048, budget=10**9) == "6.8 GB of memory"
    for bound in (replace(four, tied=True), replace(four, adapted_embedding=True)):
        assert not plan_step(bound, **how, budget=card).embedding_on_host


@pytest.mark.slow
def test_only_what_plait_computes_itself_is_predicted(tiny):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    assert size_of(config, designed(tiny, "dora").spec, value_bytes=4) is None


@pytest.fixture
def fresh(tiny: LocatedBase) -> ResidentBase:
    return held(tiny)


def test_a_limit_decides_how_many_blocks_are_computed_twice(fresh, blueprint, tiny):
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    size = size_of(config, blueprint.spec, value_bytes=4, on_cpu=True, training=CONSTANT)
    fresh.plan_steps(blueprint.spec, SETTINGS)
    assert fresh.step_memory == StepMemory(), "without a limit, nothing is known of a CPU's memory"
    long = replace(SETTINGS, seq_len=512)
    fresh.memory_limit_bytes = int(1.07 * peak_bytes(size, sequences=4, seq_len=512, recomputed=1)) + 1
    fresh.plan_steps(blueprint.spec, long)
    assert fresh.step_memory == StepMemory(recomputed=1)
    fresh.plan_steps(blueprint.spec, SETTINGS)
    assert fresh.step_memory == StepMemory(), "a shorter sequence gives up less"


def test_a_step_that_cannot_fit_is_one_line_before_the_base_is_loaded(fresh, blueprint, monkeypatch):
    monkeypatch.setattr(resident_module, "memory_for_steps", lambda *_: 1_000_000)
    for _ in range(2):  # the second time too
        with pytest.raises(MachineError, match=r"24 tokens a sequence needs .* may take 0.0 GB; what would fit: .*GB"):
            fresh.plan_steps(blueprint.spec, SETTINGS)


def test_what_is_planned_for_the_embedding_is_done_and_undone(fresh, blueprint, tiny, monkeypatch):
    size = size_of(read_base_config(tiny.directory, AdapterTask.CAUSAL_LM), blueprint.spec, value_bytes=4)
    monkeypatch.setattr(memory_plan, "has_memory_of_its_own", lambda _: True)
    honest, placed = memory_plan.size_of, []
    monkeypatch.setattr(memory_plan, "size_of", lambda *a, **how: replace(honest(*a, **how), tied=False, on_cpu=False))
    monkeypatch.setattr(BareBase, "keep_embedding", lambda _, *, on_host: placed.append(on_host))
    least = least_bytes(replace(size, tied=False, host_has_room=True), seq_len=512)
    fresh.memory_limit_bytes = int(1.08 * least)
    fresh.plan_steps(blueprint.spec, replace(SETTINGS, seq_len=512, batch_size=1))
    fresh.with_adapter(blueprint.spec, blueprint.initial)
    assert placed == [False, True], "an adapter is made where the layers are; then the embedding leaves"
    fresh.plan_steps(blueprint.spec, replace(SETTINGS, seq_len=8, batch_size=1))
    fresh.with_adapter(blueprint.spec, blueprint.initial)
    assert placed == [False, True, False]


@pytest.mark.slow
@pytest.mark.parametrize("seq_len", [24, 160])
def test_keys_and_values_of_completions_are_those_of_the_cache(fresh, blueprint, tiny, monkeypatch, seq_len):
    caches: list[DynamicCache] = []

    class Kept(DynamicCache):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)
            caches.append(self)

    monkeypatch.setattr(utils, "DynamicCache", Kept)
    tokens = np.arange(5, seq_len - 2, dtype=np.int32)
    labels = np.where(np.arange(len(tokens)) < len(tokens) - 1, -100, tokens).astype(np.int32)
    asked = [Example.of_sides(Example(tokens + each, labels), None) for each in range(3)]
    model = fresh.with_adapter(blueprint.spec, blueprint.initial).eval()
    completions_of(model, asked, GRPO(group_size=5, max_completion_tokens=8), fresh.tokenizer, (), seq_len=seq_len)
    size = size_of(read_base_config(tiny.directory, AdapterTask.CAUSAL_LM), blueprint.spec, value_bytes=4)
    held = sum(each.nbytes for layer in caches[0].layers for each in (layer.keys, layer.values))
    copied = caches[0].layers[0].keys.nbytes
    assert 0.8 * completions_bytes(size, rows=15, seq_len=seq_len) < held + copied
    assert held + copied <= completions_bytes(size, rows=15, seq_len=seq_len)

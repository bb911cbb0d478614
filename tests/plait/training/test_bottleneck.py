import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    CTRLConfig,
    GPT2Config,
    OPTConfig,
)

import plait
from plait.adapters import AdapterTask, save_peft_directory
from plait.adapters.bottleneck import bottlenecks_of
from plait.adapters.method import AdapterRequest
from plait.api.export import write_export as export
from plait.errors import ConfigError
from plait.exporting.request import ExportRequest
from plait.exporting.source import open_source
from plait.ledger.events import RoundFinished
from plait.ledger.ledger import read_events
from plait.ledger.run_view import RunView
from plait.report.tables import aggregation_table
from plait.training.blueprint import design
from plait.training.bottleneck import BottleneckConfig, BottleneckLayer
from tests.plait.training.conftest import designed, moved

TOKENS = torch.tensor([[5, 17, 300, 41, 999, 1203, 8, 64]])


def erf_gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@pytest.mark.parametrize(("activation", "f"), [("gelu", erf_gelu), ("relu", lambda x: np.maximum(x, 0))])
def test_a_layer_computes_the_paper_s_formula(activation, f):
    layer = BottleneckLayer(nn.Linear(6, 5).double(), "default", BottleneckConfig(r=3, act_fn=activation))
    layer = layer.double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 6, dtype=torch.float64)
    weights = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    y = x.numpy() @ weights["base_layer.weight"].T + weights["base_layer.bias"]
    down = y @ weights["bottleneck_down.default.weight"].T + weights["bottleneck_down.default.bias"]
    expected = y + f(down) @ weights["bottleneck_up.default.weight"].T + weights["bottleneck_up.default.bias"]
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-12)


SMALL = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.mark.parametrize(
    ("config", "task", "attention", "feedforward"),
    [
        (GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2), AdapterTask.CAUSAL_LM, "attn.c_proj", "mlp.c_proj"),
        (OPTConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32,
                   word_embed_proj_dim=16), AdapterTask.CAUSAL_LM, "self_attn.out_proj", "fc2"),
        (BertConfig(**SMALL), AdapterTask.CLASSIFICATION, "attention.output.dense", "layer.0.output.dense"),
    ],
    ids=["gpt2", "opt", "bert"],
)  # fmt: skip
def test_it_finds_where_the_halves_of_a_block_end(config, task, attention, feedforward):
    labels = ("a", "b") if task is AdapterTask.CLASSIFICATION else ()
    config.num_labels = 2
    found = {}
    for method in ("bottleneck", "pfeiffer"):
        blueprint = design(config, AdapterRequest(method=method, rank=4), task=task, labels=labels, seed=0)
        found[method] = [each.module for each in bottlenecks_of(blueprint.spec.layout)]
    (second,) = found["pfeiffer"]
    (first,) = set(found["bottleneck"]) - {second}
    assert first.endswith(attention)
    assert second.endswith(feedforward)


def test_a_base_without_known_halves_is_refused_and_takes_named_modules():
    config = CTRLConfig(vocab_size=64, n_embd=16, dff=32, n_layer=1, n_head=2)
    with pytest.raises(ConfigError, match="name them with --target-modules"):
        design(config, AdapterRequest(method="bottleneck"), task=AdapterTask.CAUSAL_LM, seed=0)
    named = AdapterRequest(method="bottleneck", target_modules="multi_head_attention.dense")
    (only,) = bottlenecks_of(design(config, named, task=AdapterTask.CAUSAL_LM, seed=0).spec.layout)
    assert only.module.endswith(".0.multi_head_attention.dense")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["bottleneck", "pfeiffer"])
def test_peft_saves_and_loads_it_itself(method, tiny, tmp_path):
    blueprint = designed(tiny, method)
    save_peft_directory(tmp_path / "ours", spec=blueprint.spec, state=moved(blueprint), base=tiny.reference, card="")

    def loaded(directory: Path) -> PeftModel:
        base = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
        with warnings.catch_warnings():
            # PEFT asks transformers under a name that it is about to drop.
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            return PeftModel.from_pretrained(base, directory).eval()

    first = loaded(tmp_path / "ours")
    # Otherwise it looks for the base's own configuration on the hub.
    first.save_pretrained(str(tmp_path / "peft"), save_embedding_layers=False)
    again = loaded(tmp_path / "peft")
    with torch.no_grad():
        expected = first(input_ids=TOKENS).logits
        assert torch.equal(again(input_ids=TOKENS).logits, expected)
        # Two on one base, exchanged and taken away.
        again.load_adapter(str(tmp_path / "ours"), adapter_name="second")
        again.set_adapter("second")
        assert torch.equal(again(input_ids=TOKENS).logits, expected)
        again.delete_adapter("default")
        with again.disable_adapter():
            assert not torch.equal(again(input_ids=TOKENS).logits, expected)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clients, two rounds, at one bit per parameter."""
    out = tmp_path_factory.mktemp("run") / "run"
    options = {"base": "tiny", "clients": 2, "rounds": 2, "local_steps": 2, "seq_len": 32, "method": "bottleneck"}
    plait.simulate("stdlib", out=str(out), max_held_out_sequences=4, partition="natural:package", **options)
    return out


@pytest.mark.slow
def test_a_federation_learns_and_its_ledger_has_the_error_of_the_mean(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["final_held_out_loss"] < summary["base_held_out_loss"]
    finished = [event for event in read_events(run / "ledger.jsonl") if isinstance(event, RoundFinished)]
    assert len(finished) == 2
    for event in finished:
        assert event.diagnostics.inputs == 32
        assert 0 < event.diagnostics.error < 1
    table = aggregation_table(RunView.of(read_events(run / "ledger.jsonl")))
    assert "bottlenecks' outputs for 32 random inputs" in table.note


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("merged", "made by bottleneck and cannot be merged, because its adapters are not linear.*: export --to peft"),
        ("gguf", r"made by bottleneck \(BOTTLENECK\), llama.cpp supports only plain LoRA .*: export --to peft"),
    ],
)
def test_an_export_that_cannot_be_is_refused_and_says_why(target, message, run, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export(target, ExportRequest(open_source(run), tmp_path / "out"))
    assert not (tmp_path / "out").exists()

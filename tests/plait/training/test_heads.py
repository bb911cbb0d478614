import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForSequenceClassification,
    BartConfig,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from plait.adapters import AdapterTask, parse_spec
from plait.adapters.method import AdapterRequest, is_in
from plait.adapters.methods import METHODS
from plait.config import config_from_table
from plait.errors import ConfigError, PolicyError
from plait.policy import Policy
from plait.run import resolve
from plait.settle import settle
from plait.training.blueprint import AdapterTemplate, design, design_from_spec, load_base, read_base_config
from plait.training.device import Compute
from plait.training.export_weights import describe_base, merge_with_peft
from plait.training.resident import ResidentBase, adapter_parameters
from tests.plait.training.conftest import moved

LABELS = ("a", "b", "c")
SHAPE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40,
}  # fmt: skip
TOKENS: dict[str, Any] = dict.fromkeys(
    ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1
)
BART: dict[str, Any] = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 40,
}  # fmt: skip
# A base, the output layer of its head, and the modules between that and the encoder.
BASES: dict[str, tuple[type[PreTrainedModel], PretrainedConfig, str, set[str]]] = {
    "bert": (BertModel, BertConfig(**SHAPE), "classifier", {"bert.pooler.dense"}),
    "bert without a pooler": (BertForMaskedLM, BertConfig(**SHAPE), "classifier", {"bert.pooler.dense"}),
    "roberta": (RobertaModel, RobertaConfig(**SHAPE), "classifier.out_proj", {"classifier.dense"}),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(vocab_size=60, dim=16, n_layers=1, n_heads=2, hidden_dim=24),
        "classifier",
        {"pre_classifier"},
    ),
    "deberta": (DebertaV2Model, DebertaV2Config(**SHAPE), "classifier", {"pooler.dense"}),
    "bart": (BartModel, BartConfig(**BART), "classification_head.out_proj", {"classification_head.dense"}),
    "modernbert": (ModernBertModel, ModernBertConfig(**SHAPE, **TOKENS), "classifier", {"head.dense", "head.norm"}),
}

# Each ends as BART wants it.
TEXTS = torch.tensor([[5, 6, 7, 2], [9, 10, 11, 2]])

Base = tuple[Path, str, set[str]]


@pytest.fixture(scope="module")
def saved_as(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a base, which nobody changes."""
    return cache(lambda name: saved(name, tmp_path_factory.mktemp("base")))


@pytest.fixture(params=sorted(BASES))
def base(request: pytest.FixtureRequest, saved_as: Callable[[str], Path]) -> Base:
    _, _, output, hidden = BASES[request.param]
    return saved_as(request.param), output, hidden


def saved(name: str, folder: Path) -> Path:
    model, config, *_ = BASES[name]
    torch.manual_seed(0)
    model(config).save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{number}": number for number in range(60)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w1", eos_token="w2").save_pretrained(folder)
    return folder


@cache
def designed(directory: Path, method: str = "lora", seed: int = 3) -> AdapterTemplate:
    config = read_base_config(directory, AdapterTask.CLASSIFICATION, LABELS)
    request = AdapterRequest(method=method, rank=2)
    return design(config, request, task=AdapterTask.CLASSIFICATION, labels=LABELS, seed=seed, weights=directory)


def resident(directory: Path) -> ResidentBase:
    return ResidentBase(directory, "00" * 32, Compute(torch.device("cpu"), torch.float32), seq_len=16)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TEXTS, attention_mask=torch.ones_like(TEXTS)).logits


def test_the_adapter_has_all_after_the_encoder(base):
    directory, output, hidden = base
    initial = designed(directory).initial
    whole: dict[str, set[str]] = {}
    for name in initial.layout.by_name:
        if ".lora_" not in name:
            module, _, tensor = name.removeprefix("base_model.model.").rpartition(".")
            whole.setdefault(module, set()).add(tensor)
    assert whole.keys() == {output, *hidden}
    assert not initial[f"base_model.model.{output}.weight"].any()
    for module in hidden:
        weight = initial[f"base_model.model.{module}.weight"]
        if module.endswith("norm"):
            assert (weight == 1).all()
        else:
            assert weight.std() == pytest.approx(0.02, rel=0.2)


def test_both_ends_draw_the_same_head_and_the_seed_decides(base):
    directory, _, hidden = base
    one, other = designed(directory), designed(directory, seed=4)
    config = read_base_config(directory, AdapterTask.CLASSIFICATION, LABELS)
    from_spec = design_from_spec(config, parse_spec(one.spec.text), weights=directory)
    assert one.initial.digest() == from_spec.initial.digest()
    drawn = [name for name in one.initial.layout.by_name if is_in(name, hidden) and name.endswith("dense.weight")]
    assert all((one.initial[name] != other.initial[name]).all() for name in drawn)


def test_every_machine_computes_the_same(base, tmp_path):
    directory, _, _ = base
    made = designed(directory)
    first, second = (logits(resident(directory).with_adapter(made.spec, moved(made))) for _ in range(2))
    assert first.abs().max() > 1e-3
    assert torch.equal(first, second)
    merge_with_peft(directory, made.spec, moved(made), tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", trust_remote_code=False)
    assert torch.allclose(logits(merged), first, atol=1e-5)


@pytest.mark.parametrize(
    "method", [*sorted({*METHODS} - {"qlora"}), pytest.param("qlora", marks=pytest.mark.extra("qlora"))]
)
def test_every_method_has_a_head_and_trains(method, saved_as):
    directory = saved_as("roberta")
    if method == "prefix":
        with pytest.raises(ConfigError, match="nearest: method 'prompt'"):
            designed(directory, method)
        return
    made = designed(directory, method)
    model = resident(directory).with_adapter(made.spec, made.initial)
    assert not logits(model).any()
    model(input_ids=TEXTS).logits.sum().backward()
    assert any(each.grad is not None and each.grad.any() for each in adapter_parameters(model, made.spec.layout))
    dense = next(name for name in made.initial.layout.by_name if name.endswith("classifier.dense.weight"))
    assert made.initial[dense].std() > 0.01


def test_files_that_lack_anything_else_are_refused(tmp_path):
    saved("bert", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["encoder.layer.0.output.dense.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = read_base_config(tmp_path, AdapterTask.CLASSIFICATION, LABELS)
    with pytest.raises(ConfigError, match=r"lack 1 of its tensors, .* first is 'bert\.encoder\.layer\.0\.out"):
        load_base(tmp_path, config, AdapterTask.CLASSIFICATION, saved=("classifier",))


def test_a_policy_that_names_modules_lets_the_head_pass(tmp_path):
    table = {"base": str(saved("roberta", tmp_path)), "labels": "a,b", "target-modules": "query"}
    run = resolve(settle(config_from_table(table)))
    terms = run.terms("ada", policy=Policy(targets=("query",)))
    assert any("classifier.dense" in name for name in terms.own.layout.by_name)
    with pytest.raises(PolicyError, match="the run asks for an adapter on 'query'"):
        run.terms("ada", policy=Policy(targets=("value",)))


@pytest.mark.parametrize(
    ("name", "method", "is_new"),
    [
        ("bert", "lora", True),
        ("bert", "ia3", False),
        ("bert", "full", False),
        ("bert without a pooler", "ia3", True),
    ],
)
def test_small_methods_leave_a_pooler_to_the_base_if_its_files_have_one(name, method, is_new, saved_as):
    directory = saved_as(name)
    made = designed(directory, method)
    assert ("bert.pooler" in made.spec.saved_modules) == is_new
    assert torch.equal(*(logits(resident(directory).with_adapter(made.spec, moved(made))) for _ in range(2)))


def test_quantised_weights_are_noticed(tiny, tmp_path):
    config = json.loads((tiny.directory / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    assert describe_base(tmp_path, AdapterTask.CAUSAL_LM).quantised

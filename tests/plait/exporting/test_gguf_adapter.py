import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from numpy.typing import NDArray
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from plait.adapters import AdapterState
from plait.api.export import write_export as export
from plait.errors import ConfigError
from plait.exporting.request import ExportRequest
from plait.exporting.source import ascii_name, open_source
from plait.training.bases import locate_base
from tests.plait.training.test_gguf_base import write

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def side_by_side(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of one head from halves to pairs, row by row: row i of the first half, row i of the second, and so on."""
    size = len(weight) // heads
    order = [
        head * size + half * size // 2 + row for head in range(heads) for row in range(size // 2) for half in range(2)
    ]
    return weight[order]


def read(path: Path) -> tuple[dict[str, NDArray[np.float32]], dict[str, object]]:
    reader = GGUFReader(path)
    tensors = {tensor.name: np.asarray(tensor.data, np.float32) for tensor in reader.tensors}
    return tensors, {name: field.contents() for name, field in reader.fields.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True}],
)
def test_alpha_over_rank_times_the_factors_is_what_peft_adds(by_peft, tiny, tmp_path, settings):
    adapter = by_peft(**settings)
    export("gguf", ExportRequest(open_source(adapter), tmp_path / "out"))
    tensors, facts = read(tmp_path / "out" / "adapter.gguf")
    assert facts["general.type"] == "adapter"
    assert facts["adapter.type"] == "lora"
    assert facts["general.architecture"] == "llama"
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny.directory, trust_remote_code=False), adapter
    )
    for layer in range(4):
        for module, name in NAMES.items():
            a, b = (tensors[f"blk.{layer}.{name}.weight.lora_{side}"] for side in "ab")
            # llama.cpp: one alpha for all, the rank of each pair.
            ours = facts["adapter.lora.alpha"] / len(a) * (b @ a)
            theirs = model.get_submodule(f"base_model.model.model.layers.{layer}.{module}").get_delta_weight("default")
            theirs = theirs.detach().numpy()
            if name in ("attn_q", "attn_k"):
                theirs = side_by_side(theirs, {"attn_q": 4, "attn_k": 2}[name])
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
    assert len(tensors) == 4 * 7 * 2


def test_a_factor_that_float16_cannot_hold_is_refused(by_peft, tmp_path):
    source = open_source(by_peft())
    source = replace(source, state=AdapterState(source.state.layout, np.float32(1e9) * source.state.flat))
    with pytest.raises(ConfigError, match="is too large for f16; give --gguf-type f32"):
        export("gguf", ExportRequest(source, tmp_path / "out", gguf_type="f16"))
    assert not (tmp_path / "out").exists()


def test_a_base_of_another_architecture_is_refused_with_the_way_round(by_peft, tiny, tmp_path):
    base = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=32, vocab_size=2048)).save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.directory / name, base)
    adapter = by_peft(base=base, target_modules=["c_proj"], fan_in_fan_out=True)
    with pytest.raises(ConfigError, match=r"is of type 'gpt2', expected one of .*convert_hf_to_gguf\.py"):
        export("gguf", ExportRequest(open_source(adapter), tmp_path / "out"))


def write_base_gguf(base: Path, path: Path) -> None:
    """A Llama with a byte-level tokenizer as llama.cpp reads it, in float32."""
    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    words = {number: token for token, number in tokenizer.get_vocab().items()}
    merges = json.loads((base / "tokenizer.json").read_text())["model"]["merges"]
    special = {*tokenizer.all_special_ids} - {tokenizer.eos_token_id}
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)

    def also(writer: GGUFWriter) -> None:
        writer.add_tokenizer_pre("smollm")
        writer.add_bos_token_id(tokenizer.bos_token_id)
        # None of its own, so that both sides write on.
        writer.add_add_bos_token(False)

    write(
        path, "F32", model=model, also=also, special=(*special, tokenizer.eos_token_id),
        words=[words.get(number, f"[UNUSED{number}]") for number in range(model.config.vocab_size)],
        merges=[pair if isinstance(pair, str) else " ".join(pair) for pair in merges],
    )  # fmt: skip


def greedy_by_transformers(base: Path, adapter: Path | None, prompt: list[int], count: int) -> str:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, trust_remote_code=False)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    tokens = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(count):
            logits = model(input_ids=tokens).logits[0, -1]
            tokens = torch.cat([tokens, logits.argmax().reshape(1, 1)], dim=1)
    return AutoTokenizer.from_pretrained(base, trust_remote_code=False).decode(tokens[0, len(prompt) :])


def greedy_by_llama_cpp(base: Path, adapter: Path | None, prompt: list[int], count: int) -> str:
    xllamacpp = pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    params = xllamacpp.CommonParams()
    params.model.path = str(base)
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)] if adapter else []
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads, params.verbosity = 256, 1, 1, -1
    # In float32 all through, as transformers computes.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    answer = xllamacpp.Server(params).handle_completions({"prompt": prompt, "max_tokens": count, "temperature": 0.0})
    return answer["choices"][0]["text"]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_llama_cpp_writes_the_text_that_transformers_writes(by_peft, tiny, tmp_path, settings):
    write_base_gguf(tiny.directory, tmp_path / "base.gguf")
    prompt = AutoTokenizer.from_pretrained(tiny.directory, trust_remote_code=False)(
        "def add(left, right):\n    return"
    )["input_ids"]
    plain = greedy_by_transformers(tiny.directory, None, prompt, 40)
    assert greedy_by_llama_cpp(tmp_path / "base.gguf", None, prompt, 40) == plain
    adapter = by_peft(**settings)
    export("gguf", ExportRequest(open_source(adapter), tmp_path / "out"))
    theirs = greedy_by_transformers(tiny.directory, adapter, prompt, 40)
    assert theirs != plain
    assert greedy_by_llama_cpp(tmp_path / "base.gguf", tmp_path / "out" / "adapter.gguf", prompt, 40) == theirs


@pytest.mark.slow
def test_ollamas_modelfile_puts_the_adapter_beside_it_on_the_base(by_plait, tiny, tmp_path):
    source, out = open_source(by_plait()), tmp_path / "out"
    exported = export("ollama", ExportRequest(source, out))
    assert (out / "Modelfile").read_text() == "FROM ./base\nADAPTER ./adapter.gguf\n"
    assert locate_base(str(out / "base")).reference.fingerprint == tiny.reference.fingerprint
    assert (out / "adapter.gguf").read_bytes()[:4] == b"GGUF"
    assert exported.commands[0].text == f"ollama create by-plait --file {out / 'Modelfile'} && ollama run by-plait"
    # A name in Ollama takes the place of the directory, and none breaks out of its line.
    export("ollama", ExportRequest(source, tmp_path / "named", served_base="llama3.2:1b"))
    assert (tmp_path / "named" / "Modelfile").read_text().startswith("FROM llama3.2:1b\n")
    with pytest.raises(ConfigError, match="which a Modelfile cannot contain"):
        export("ollama", ExportRequest(source, tmp_path / "hostile", served_base='x\nRUN "y"'))


def test_names_in_other_scripts_become_names_that_ollama_takes_and_stay_apart():
    names = [ascii_name(name) for name in ("run-Zoë", "run-Zoe", "run-李雷", "run-韩梅梅")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in names)
    assert names[1] == "run-Zoe"
    assert len(set(names)) == 4

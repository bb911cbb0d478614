import json

import numpy as np
import pytest
from numpy.typing import NDArray
from peft import IA3Config, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from plait.adapters import AdapterSpec, AdapterState
from plait.aggregation.geometry import geometry_of
from plait.errors import ConfigError, PeerError
from plait.exporting.plain_lora import plain_lora, uniform
from plait.exporting.source import open_source


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"layer_replication": [[0, 3], [2, 4]]}, "layer_replication of .*, expected null"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights of .* is 'pissa'.* convert it to plain LoRA"),
        ({"target_modules": ["q_proj"], "trainable_token_indices": [3, 4]}, "trainable_token_indices of .*"),
    ],
)
def test_what_no_method_of_plait_has_is_refused_when_it_is_read(by_peft, settings, fault):
    with pytest.raises(PeerError, match=fault):
        open_source(by_peft(**settings))


def test_another_method_is_named(tiny, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny.directory, trust_remote_code=False)
    config = IA3Config(
        task_type=TaskType.CAUSAL_LM, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    )
    get_peft_model(model, config).save_pretrained(tmp_path / "ia3")
    with pytest.raises(
        ConfigError, match=r"is made by ia3 \(IA3\), X supports only plain LoRA of a language model: do Y"
    ):
        plain_lora(open_source(tmp_path / "ia3"), use="X", instead="do Y")


def test_a_classifier_is_named(by_peft):
    folder = by_peft()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "SEQ_CLS"}))
    with pytest.raises(ConfigError, match="has a classification head"):
        plain_lora(open_source(folder), use="X", instead="do Y")


def products(spec: AdapterSpec, state: AdapterState) -> dict[str, NDArray[np.float64]]:
    """scale * B A of every module, dense."""
    return {
        pair.module: pair.scale * pair.b_of(state.flat).astype(np.float64) @ pair.a_of(state.flat).astype(np.float64)
        for pair in geometry_of(spec).pairs
    }


SETTINGS = {"r": 3, "lora_alpha": 5, "use_rslora": True}


def test_padding_keeps_every_product_and_states_the_scale_plainly(by_peft):
    source = open_source(by_peft(**SETTINGS))
    before = products(source.spec, source.state)
    fitted = uniform(source, geometry_of(source.spec), rank=8)
    config = fitted.spec.peft_config
    assert config["r"] == 8
    assert "use_rslora" not in config
    assert fitted.lost == 0
    for module, product in products(fitted.spec, fitted.state).items():
        np.testing.assert_allclose(product, before[module], rtol=0, atol=1e-6 * np.abs(before[module]).max())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2])
def test_cutting_takes_the_truncated_svd_of_every_module_and_says_what_is_lost(by_peft, rank):
    source = open_source(by_peft(**SETTINGS))
    before = products(source.spec, source.state)
    fitted = uniform(source, geometry_of(source.spec), rank=rank)
    dropped = total = 0.0
    for module, product in products(fitted.spec, fitted.state).items():
        u, s, vt = np.linalg.svd(before[module])
        best = u[:, :rank] * s[:rank] @ vt[:rank]
        np.testing.assert_allclose(product, best, rtol=0, atol=1e-5 * s[0])
        dropped, total = dropped + (s[rank:] ** 2).sum(), total + (s**2).sum()
    assert fitted.lost == pytest.approx((dropped / total) ** 0.5, rel=1e-4)

from __future__ import annotations

import json
import shutil
from pathlib import Path

from transformers import AutoModelForCausalLM

from plait.adapters import Task
from plait.training.bases import LocatedBase
from plait.training.export_weights import describe_base


def test_a_base_is_described_from_its_config_alone(tiny: LocatedBase, tmp_path: Path) -> None:
    shutil.copy(tiny.directory / "config.json", tmp_path)
    shape = describe_base(tmp_path, Task.CAUSAL_LM)
    model = AutoModelForCausalLM.from_pretrained(tiny.directory, trust_remote_code=False)
    assert (shape.model_type, shape.layers, shape.heads, shape.kv_heads) == ("llama", 4, 4, 2)
    assert (shape.tied, shape.quantised, shape.output) == (True, False, "lm_head")
    for name, (d_out, d_in) in shape.linear.items():
        assert model.get_submodule(name).weight.shape == (d_out, d_in)
    assert len(shape.linear) == 4 * 7 + 1


def test_quantised_weights_are_noticed(tiny: LocatedBase, tmp_path: Path) -> None:
    config = json.loads((tiny.directory / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    assert describe_base(tmp_path, Task.CAUSAL_LM).quantised

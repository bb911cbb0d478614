from __future__ import annotations

import json
from pathlib import Path

from plait.adapters import AdapterTask
from plait.training.bases import LocatedBase
from plait.training.export_weights import describe_base


def test_quantised_weights_are_noticed(tiny: LocatedBase, tmp_path: Path) -> None:
    config = json.loads((tiny.directory / "config.json").read_text())
    quantised = {**config, "quantization_config": {"quant_method": "fp8"}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))
    assert describe_base(tmp_path, AdapterTask.CAUSAL_LM).quantised

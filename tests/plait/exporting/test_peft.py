import json
from collections.abc import Callable

import pytest
import torch

from plait.api.export import write_export as export
from plait.errors import ConfigError
from plait.exporting.request import ExportRequest
from plait.exporting.source import open_source

Logits = Callable[..., torch.Tensor]


def test_the_export_gives_the_same_logits_in_plain_peft_and_keeps_the_card(
    by_plait, by_peft, tiny, logits_of, tmp_path
):
    for name, adapter in {"lora": by_plait(), "dora": by_peft(use_dora=True)}.items():
        export("peft", ExportRequest(open_source(adapter), tmp_path / name))
        ours = logits_of(tiny.directory, tmp_path / name)
        assert torch.equal(ours, logits_of(tiny.directory, adapter))
        assert (ours - logits_of(tiny.directory)).abs().max() > 0.1
    assert (tmp_path / "lora" / "README.md").read_text() == "the run's own card"


@pytest.mark.slow
def test_a_larger_rank_changes_nothing_but_the_shapes(by_peft, tiny, logits_of, tmp_path):
    adapter = by_peft()
    exported = export("peft", ExportRequest(open_source(adapter), tmp_path / "out", rank=9))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], exported.lost) == (9, 18, 0.0)
    torch.testing.assert_close(
        logits_of(tiny.directory, tmp_path / "out"), logits_of(tiny.directory, adapter), rtol=0, atol=1e-4
    )


def test_a_smaller_rank_says_what_it_lost(by_peft, tmp_path):
    exported = export("peft", ExportRequest(open_source(by_peft()), tmp_path / "out", rank=1))
    assert 0 < exported.lost < 1
    assert f"Cut to rank 1: {exported.lost:.2%}" in (tmp_path / "out" / "README.md").read_text()


def test_a_rank_for_what_is_no_plain_lora_is_refused(by_peft, tmp_path):
    source = open_source(by_peft(use_dora=True))
    with pytest.raises(ConfigError, match=r"is DoRA.*leave --rank out"):
        export("peft", ExportRequest(source, tmp_path / "out", rank=2))
    assert not (tmp_path / "out").exists()

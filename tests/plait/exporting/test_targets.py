import json
import re
from typing import cast

import pytest

from plait.adapters import AdapterTask, Subject, save_peft_directory
from plait.adapters.method import AdapterRequest
from plait.adapters.methods import METHODS
from plait.adapters.peft_reading import load_peft_directory
from plait.adapters.spec import ORIGINS, Origin
from plait.api.export import TARGETS
from plait.api.export import write_export as export
from plait.data import cache_directory
from plait.errors import ConfigError, MachineError
from plait.exporting.request import ExportRequest
from plait.exporting.source import locate_weights, open_source
from plait.training.bases import locate_base
from plait.training.blueprint import design, read_base_config
from plait.training.peft_adapter import servable


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("hub_id", [None, "owner/tiny-model"])
def test_every_target_writes_a_card_and_a_command_and_nothing_says_where_this_machine_keeps_a_built_in_base(
    by_plait, tmp_path, monkeypatch, target, hub_id
):
    ours = Origin(hub_id, ollama="tiny:latest" if hub_id else None, remark="A copy of it." if hub_id else "")
    monkeypatch.setitem(cast("dict[str, Origin]", ORIGINS), "tiny", ours)
    located = locate_base("tiny")
    assert located.reference.name == (hub_id or "tiny")
    by_plait("made", base=located.reference)
    out = tmp_path / "deep" / "out"
    exported = export(target, ExportRequest(open_source(tmp_path / "made"), out))
    texts = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert exported.files == {name: len(text) for name, text in texts.items()}
    assert str(out) in exported.commands[-1].text
    assert not any(str(cache_directory()).encode() in text for text in texts.values())
    card = texts["README.md"].decode()
    if hub_id:
        # PEFT needs no network here; the others' commands are for other machines too.
        assert target == "peft" or not any(str(cache_directory()) in command.text for command in exported.commands)
        assert target == "peft" or ('base_model: "owner/tiny-model"' in card and "\nA copy of it.\n" in card)


def test_a_hub_id_that_stands_for_a_built_in_base_leads_back_to_it_without_a_network(by_plait, tmp_path, monkeypatch):
    monkeypatch.setitem(cast("dict[str, Origin]", ORIGINS), "tiny", Origin("owner/tiny-model"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", pytest.fail)
    tiny = locate_base("tiny")
    adapter = by_plait("made", base=tiny.reference)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "owner/tiny-model"
    exported = export("peft", ExportRequest(open_source(adapter), tmp_path / "again"))
    assert f'from_pretrained("{tiny.directory}")' in exported.commands[0].text
    for place in (adapter, tmp_path / "again"):
        assert locate_weights(open_source(place), progress=lambda _: None).directory == tiny.directory
        assert load_peft_directory(place).base_here == "tiny"


def test_a_place_that_is_taken_or_cannot_be_made_is_refused(by_plait, tmp_path):
    source = open_source(by_plait())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    for place, kind, message in (
        ("out", ConfigError, "is not empty"),
        ("out/mine", ConfigError, "is a file, expected a new or an empty directory"),
        ("out/mine/below/out", MachineError, "cannot"),
    ):
        with pytest.raises(kind, match=message):
            export("peft", ExportRequest(source, tmp_path / place))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_where_it_can_and_is_told_where_else_it_goes(method, tiny, tmp_path):
    """What a refusal names as the nearest is not refused in turn."""
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    request = AdapterRequest(method=method, rank=2, virtual_tokens=2)
    made = design(config, request, task=AdapterTask.CAUSAL_LM, seed=0, weights=tiny.directory)
    spec, state = servable(made.spec, made.initial)
    save_peft_directory(tmp_path / "adapter", spec=spec, state=state, base=tiny.reference, card="")
    source = open_source(tmp_path / "adapter")
    nearest: set[str] = set()
    for target, prepare in TARGETS.items():
        try:
            prepare(ExportRequest(source, tmp_path / target), lambda _: None)
        except ConfigError as refusal:
            nearest.update(re.findall(r"--to (\w+)", str(refusal)))
    if METHODS[method].subject is Subject.FACTORS and method != "dora":
        assert not nearest
    else:
        assert nearest <= {"merged", "peft"}
    for target in nearest:
        TARGETS[target](ExportRequest(source, tmp_path / target), lambda _: None)

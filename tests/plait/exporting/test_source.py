import hashlib
import json
import shutil
from pathlib import Path

import pytest

from plait.errors import BaseMismatchError, ConfigError, PeerError
from plait.exporting.source import locate_weights, open_source


def test_a_run_directory_gives_its_adapter_and_its_facts(by_plait, tmp_path):
    run = tmp_path / "my run"
    run.mkdir()
    shutil.move(by_plait(), run / "adapter")
    (run / "summary.json").write_text(json.dumps({"rounds": 3, "clients": 2, "final_held_out_loss": 1.5, "seed": 0}))
    source = open_source(run)
    assert source.name == "my-run"
    assert source.facts == {"rounds": 3, "clients": 2, "final_held_out_loss": 1.5}
    assert source.digest == hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert open_source(run / "adapter").name == "my-run"
    (run / "summary.json").write_text("{")
    assert open_source(run).facts == {}


def test_an_adapter_that_peft_wrote_is_tied_to_the_base_that_it_names(by_peft, tiny):
    source = open_source(by_peft())
    assert source.base.fingerprint == tiny.reference.fingerprint
    assert source.spec.rank == 4
    assert source.card is not None


def test_an_adapter_that_names_no_base_asks_for_one(by_peft, tiny):
    folder = by_peft()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = None
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="names no base; give --base"):
        open_source(folder)
    assert open_source(folder, base="tiny").base.fingerprint == tiny.reference.fingerprint


def test_weights_that_changed_under_the_same_name_are_refused(by_peft, tiny, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny.directory, base)
    source = open_source(by_peft(base=base))
    assert locate_weights(source, progress=lambda _: None).directory == base
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    with pytest.raises(BaseMismatchError, match="which the adapter was trained on"):
        locate_weights(source, progress=lambda _: None)


def test_a_place_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a run directory or a PEFT directory"):
        open_source(tmp_path / "missing")
    with pytest.raises(PeerError, match="adapter_config"):
        open_source(tmp_path)


def test_a_card_that_is_a_link_out_of_the_directory_is_not_passed_on(by_plait, tmp_path):
    adapter, private = by_plait(), tmp_path / "private"
    private.write_text("a key")
    (adapter / "README.md").unlink(missing_ok=True)
    (adapter / "README.md").symlink_to(private)
    assert open_source(adapter).card is None
    # As the hub keeps what it has downloaded.
    snapshot, blob = tmp_path / "models--a--b" / "snapshots" / "1234", tmp_path / "models--a--b" / "blobs" / "abcd"
    blob.parent.mkdir(parents=True)
    blob.write_text("a card")
    shutil.copytree(adapter, snapshot, ignore=lambda *_: ["README.md"])
    (snapshot / "README.md").symlink_to(Path("..", "..", "blobs", "abcd"))
    assert open_source(snapshot).card == "a card"

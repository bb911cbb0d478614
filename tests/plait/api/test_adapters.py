"""What a program does with the adapter of a run: evaluate and export it, as the verbs do."""

import json
from pathlib import Path

import numpy as np
import pytest

import plait
from plait.adapters.peft_reading import load_peft_directory
from plait.aggregation import Side
from plait.errors import BaseMismatchError, ConfigError
from tests.plait.conftest import begun_otherwise


@pytest.mark.slow
def test_an_adapter_is_evaluated_on_data_in_memory_as_the_command_does_on_a_file(finished, records, jsonl, capsys):
    from plait.cli.app import app

    options = {"seq_len": 32, "max_sequences": 8, "dtype": "float32"}
    found = plait.evaluate(plait.open_run(finished), records, quiet=True, **options)
    assert found.adapter.loss < found.base.loss
    assert found.adapter.change == pytest.approx(found.adapter.loss - found.base.loss)
    assert (found.base_name, found.base.examples) == ("tiny", 8)
    command = ["eval", "--adapter", str(finished), "--data", str(jsonl), "--json"]
    command += [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    app(command, standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found.figures))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seq_len": 2}, "seq_len is 2, expected at least 8"),
        ({"dtype": "float23"}, "dtype is 'float23', expected one of auto, .* did you mean 'float32'"),
        ({"device": "gpu"}, "device is 'gpu', expected"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line(finished, given, message):
    with pytest.raises(ConfigError, match=message) as refused:
        plait.evaluate(finished, [{"text": "a"}], quiet=True, **given)  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


def test_an_adapter_is_exported_and_stands_for_its_directory(finished, tmp_path):
    exported = plait.export(plait.open_run(finished), tmp_path / "out", to="peft", rank=1, quiet=True)
    assert load_peft_directory(Path(exported)).config["r"] == 1
    assert (exported.rank, exported.base.name) == (1, "tiny")
    assert 0 < exported.lost < 1
    assert {path.name for path in exported.directory.iterdir()} == exported.files.keys()
    with pytest.raises(ConfigError, match="is not empty"):
        plait.export(finished, tmp_path / "out", to="peft", quiet=True)
    with pytest.raises(ConfigError, match=r"--to is 'onnx'.*"):
        plait.export(finished, tmp_path / "other", to="onnx", quiet=True)  # type: ignore[arg-type]
    # A package of a public name would take its place as soon as anything imports it.
    assert not [name for name in plait.__all__ if type(getattr(plait, name)).__name__ == "module"]


def test_the_base_may_be_a_model_in_memory_and_must_be_the_one_that_was_trained_on(finished, records, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from plait.training.bases import locate_base

    directory = locate_base("tiny").directory
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=False),
        AutoTokenizer.from_pretrained(directory, trust_remote_code=False),
    )
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(BaseMismatchError, match="which the adapter was trained on"):
        plait.evaluate(finished, records, base=model, tokenizer=tokenizer, seq_len=32, quiet=True)
    with pytest.raises(BaseMismatchError, match="which the adapter was trained on"):
        plait.export(finished, tmp_path / "out", to="peft", base=model, tokenizer=tokenizer, quiet=True)


@plait.rule(linear=True, personal=Side.B)
def mean_of_a(updates: plait.Updates, _: object) -> object:
    return updates.deltas.mean(axis=0)


@pytest.mark.slow
def test_a_client_s_own_side_under_a_rule_of_one_s_own_is_exported_without_that_rule(records, small, tmp_path):
    settings = {**small, "rounds": 1}
    run = plait.simulate(records, partition="natural:author", rule=mean_of_a, out=tmp_path / "run", **settings)
    begun_otherwise(run.path, lambda config: config.replace(__name__, "elsewhere"))
    found = [
        load_peft_directory(
            plait.export(run, tmp_path / (client or "all"), to="peft", client=client, quiet=True).directory
        )
        for client in ("ada", "bob", "")
    ]
    ada, bob, shared = (adapter.tensors for adapter in found)
    for name, tensor in shared.items():
        same = "lora_A" in name
        assert np.array_equal(ada[name], tensor) == same
        assert np.array_equal(ada[name], bob[name]) == same

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.plait.exporting.conftest import write_adapter

Plait = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of two rounds leaves behind, as far as an export reads it."""
    (tmp_path / "run").mkdir()
    write_adapter(tmp_path / "run" / "adapter", rank=2)
    (tmp_path / "run" / "summary.json").write_text(json.dumps({"rounds": 2, "clients": 3}))
    return tmp_path / "run"


TARGET_FILES = {
    "peft": {"README.md", "adapter_config.json", "adapter_model.safetensors"},
    "gguf": {"README.md", "adapter.gguf"},
    "vllm": {"README.md", "adapter_config.json", "adapter_model.safetensors"},
    "ollama": {"Modelfile", "README.md", "adapter.gguf", "base"},
}


@pytest.mark.parametrize("target", sorted(TARGET_FILES))
def test_a_run_is_exported_and_the_result_printed_as_json(plait, run, tmp_path, target):
    done = plait("export", run, tmp_path / "out", "--to", target, "--json")
    assert (done.code, done.err) == (0, "")
    printed = json.loads(done.out)
    assert printed["target"] == target
    assert TARGET_FILES[target] == {path.name for path in (tmp_path / "out").iterdir()}
    assert TARGET_FILES[target] == {name.partition("/")[0] for name in printed["files"]}
    assert str(tmp_path / "out") in list(printed["commands"].values())[-1]


def test_the_command_loads_a_built_in_base_from_this_disk(plait, run, tmp_path, monkeypatch):
    monkeypatch.setattr("plait.exporting.peft.base_at_hand", lambda name: tmp_path / name)
    assert f'from_pretrained("{tmp_path / "tiny"}")' in plait("export", run, tmp_path / "out").out


def test_an_export_is_a_peft_directory_here_unless_another_is_named(plait, run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert plait("export", run).code == 0
    assert TARGET_FILES["peft"] == {path.name for path in Path("run-peft").iterdir()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "onnx"), "--to is 'onnx', expected one of gguf, merged, ollama, peft, vllm"),
        (("--to", "gguf", "--gguf-type", "f61"), "--gguf-type is 'f61', expected f32 or f16"),
        (("--to", "vllm", "--rank", 5), "--rank is 5, expected one that vLLM allows"),
        (("--to", "merged", "--rank", 5), "a merged model has no rank"),
    ],
)
def test_what_the_target_would_reject_is_refused_and_nothing_is_written(plait, run, tmp_path, options, message):
    done = plait("export", run, tmp_path / "out", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "own", [("--rule", "fedsa", "--learning-rate", 3e-2), ("--personalize", 0.7, "--learning-rate", 5e-3)]
)
def test_every_client_of_a_personal_run_has_an_adapter_of_its_own(plait, jsonl, small, tmp_path, own):
    done = plait(
        "simulate", "--data", jsonl, "--partition", "natural:author", "--clients", 3, *small, *own,
        "--bits", "fp32", "--dtype", "float32", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    losses = json.loads(done.out)["held_out_loss_by_client"]
    loss_of: dict[tuple[str, str], float] = {}
    for name in losses:
        written = plait("export", tmp_path / "run", tmp_path / name, "--to", "peft", "--client", name, "--json")
        assert written.code == 0
        assert f"\n# run-{name}\n" in (tmp_path / name / "README.md").read_text().replace("\\-", "-")
        for other in losses:
            lines = [line for line in jsonl.read_text().splitlines() if json.loads(line)["author"] == other]
            (tmp_path / f"{other}.jsonl").write_text("\n".join(lines))
            ran = plait(
                "eval", "--adapter", tmp_path / name, "--data", tmp_path / f"{other}.jsonl", "--seq-len", 32,
                "--dtype", "float32", "--json",
            )  # fmt: skip
            loss_of[name, other] = json.loads(ran.out)["adapter"]["loss"]
    for name in losses:
        assert loss_of[name, name] == min(loss_of[other, name] for other in losses)
    ran = plait("export", tmp_path / "run", tmp_path / "no", "--to", "peft", "--client", "adda")
    assert ran.code == 2
    assert "client is 'adda', expected one of ada, bob, eve; did you mean 'ada'?" in ran.err

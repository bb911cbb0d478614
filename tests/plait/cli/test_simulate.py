import hashlib
import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plait.adapters.peft_reading import load_peft_directory
from plait.ledger.ledger import read_lines
from plait.training.bases import locate_base


@pytest.mark.promise
@pytest.mark.slow
def test_a_run_teaches_the_model_and_leaves_everything_it_promises(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["final_held_out_loss"] < summary["base_held_out_loss"]
    assert summary["held_out_loss_by_round"][0] == summary["base_held_out_loss"]
    assert summary["held_out_loss_by_round"][-1] == summary["final_held_out_loss"]
    assert set(summary["held_out_loss_by_client"]) == {"ada", "bob", "eve"}
    assert set(summary["own_held_out_loss_by_client"]) == {"ada", "bob", "eve"}
    assert summary["own_held_out_loss"] < summary["base_held_out_loss"]
    assert summary["reference_held_out_loss"]["central"] < summary["base_held_out_loss"]
    assert summary["reference_held_out_loss"]["local"] < summary["base_held_out_loss"]
    assert (summary["rounds"], summary["clients"], summary["seed"]) == (2, 3, 0)
    for name in ("config.toml", "ledger.jsonl", "report.html", "adapter/README.md", "adapter/adapter_config.json"):
        assert (finished / name).stat().st_size > 100
    assert len(list(finished.glob("*.png"))) >= 3


@pytest.mark.promise
@pytest.mark.slow
def test_by_default_a_parameter_costs_one_bit(finished):
    updates = [event for event in read_lines(finished / "ledger.jsonl") if event["event"] == "update_received"]
    assert len(updates) == 6
    for update in updates:
        assert update["codec"] == "rate"
        # Few numbers, in round 1 of two magnitudes: single updates miss the rate by more than large ones do.
        assert update["bits_per_parameter"] == pytest.approx(1, rel=0.25)
        assert 0.02 < update["distortion"] < 0.5
    assert sum(update["bits_per_parameter"] for update in updates) / len(updates) == pytest.approx(1, rel=0.05)


@pytest.mark.promise
@pytest.mark.slow
def test_the_adapter_loads_in_plain_peft_and_gives_the_losses_that_plait_measured(finished, jsonl, plait):
    ran = plait(
        "eval", "--adapter", finished / "adapter", "--data", jsonl, "--seq-len", 32, "--dtype", "float32",
        "--max-sequences", 6, "--batch-size", 1, "--json",
    )  # fmt: skip
    ours = json.loads(ran.out)
    directory = locate_base("tiny").directory
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=False)
    model = PeftModel.from_pretrained(model, finished / "adapter").eval()
    with torch.no_grad():
        adapted = model(input_ids=torch.arange(3, 35)[None]).logits
        with model.disable_adapter():
            bare = model(input_ids=torch.arange(3, 35)[None]).logits
    assert (adapted - bare).abs().max() > 1e-3
    assert ours["adapter"]["loss"] < ours["base"]["loss"]
    assert ours["adapter"]["change"] == pytest.approx(ours["adapter"]["loss"] - ours["base"]["loss"])
    low, high = ours["adapter"]["change_interval"]
    assert low < ours["adapter"]["change"] < high
    assert high - low < ours["base"]["loss_interval"][1] - ours["base"]["loss_interval"][0]


@pytest.mark.promise
@pytest.mark.slow
def test_verify_passes_a_whole_run_and_catches_a_changed_one(finished, plait):
    assert plait("verify", finished).code == 0
    ledger = finished / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"seed":0', '"seed":1', 1))
    ran = plait("verify", finished)
    assert ran.code == 3
    assert "breaks the hash chain" in ran.err


@pytest.mark.slow
def test_report_rebuilds_what_was_deleted(finished, plait):
    before = (finished / "summary.json").read_text()
    for name in ("summary.json", "report.html"):
        (finished / name).unlink()
    ran = plait("report", finished)
    assert ran.code == 0
    assert "ada" in ran.out
    assert (finished / "summary.json").read_text() == before
    assert (finished / "report.html").exists()


@pytest.mark.slow
def test_classification_reports_accuracy(plait, tmp_path, small):
    data = tmp_path / "labels.jsonl"
    lines = [
        json.dumps({"text": text, "label": label})
        for number in range(40)
        for text, label in (
            (f"def f_{number}(): return {number}", "code"),
            (f"Once upon a time, {number} foxes", "prose"),
        )
    ]
    data.write_text("\n".join(lines))
    ran = plait(
        "simulate", "--data", data, "--partition", "iid", "--clients", 2, *small, "--local-steps", 8, "--learning-rate",
        5e-3, "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    evaluated = [event for event in read_lines(tmp_path / "run" / "ledger.jsonl") if event["event"] == "evaluated"]
    assert evaluated[-1]["accuracy"] > 0.9
    tensors = load_peft_directory(tmp_path / "run" / "adapter").tensors
    assert "base_model.model.score.weight" in tensors
    # Without the adapter every class has the same probability. The first and the 41st line are of one class.
    two = ("--data", data, "--max-sequences", 2, "--seq-len", 32, "--json")
    assert json.loads(plait("eval", "--adapter", tmp_path / "run", *two).out)["base"]["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--device", "cuda:77"), 2, "cuda:77"),
        (("--target-modules", "c_attn"), 2, "matches no module of this base"),
        (("--seq-len", "4096"), 3, "too little data"),
    ],
)
def test_what_cannot_be_is_one_clear_line_and_nothing_is_written(
    arguments, code, message, plait, jsonl, tmp_path, small
):
    out = tmp_path / "run"
    ran = plait("simulate", "--data", jsonl, "--partition", "iid", "--clients", 2, *small, *arguments, "--out", out)
    assert ran.code == code, ran.err
    assert message in ran.err
    assert not (out / "adapter").exists()
    assert len([line for line in ran.err.splitlines() if line.startswith("error: ")]) == 1


@pytest.mark.slow
def test_a_client_with_too_little_data_is_left_out_and_said_so_and_the_baselines_leave_it_out_too(
    plait, jsonl, tmp_path, small
):
    with jsonl.open("a") as file:
        file.write(json.dumps({"text": "Too little.", "author": "zoe"}) + "\n")
    out = tmp_path / "run"
    options = ("--data", jsonl, "--partition", "natural:author", *small, "--reference", "central,local")
    ran = plait("simulate", *options, "--clients", 4, "--out", out, "--verbose")
    assert ran.code == 0, ran.err
    words = "client 'zoe' has too little data: 0 sequences of at most 32 tokens"
    assert f"cannot take part zoe: {words}" in ran.err
    assert "Clients that could not take part" in ran.out
    assert "Clients that could not take part" in (out / "report.html").read_text()
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["held_out_loss_by_client"]) == {"ada", "bob", "eve"}
    references = [event for event in read_lines(out / "ledger.jsonl") if event["event"] == "reference"]
    assert [set(event["by_client"]) for event in references] == [{"ada", "bob", "eve"}] * 2
    assert plait("verify", out).code == 0
    # Who asks for more than can take part hears who is missing, and why.
    ran = plait("simulate", *options, "--clients", 4, "--quorum", 1, "--out", tmp_path / "all")
    assert ran.code == 3
    assert f"3 of 4 clients can take part, but at least 4 are needed: zoe: {words}" in ran.err


@pytest.mark.slow
def test_a_run_begins_where_another_ended_and_its_adapter_is_both_in_plain_peft(plait, jsonl, tmp_path, small):
    options = ("--data", jsonl, "--partition", "natural:author", "--clients", 3, *small, "--bits", "fp32", "--json")
    first = json.loads(plait("simulate", *options, "--dtype", "float32", "--out", tmp_path / "first").out)
    ran = plait(
        "simulate", *options, "--dtype", "float32", "--init-adapter", tmp_path / "first",
        "--seed", 5, "--out", tmp_path / "then", "--keep-updates", "--reference", "central",
    )  # fmt: skip
    then = json.loads(ran.out)
    assert then["base_held_out_loss"] == pytest.approx(first["final_held_out_loss"], abs=1e-5)
    assert then["final_held_out_loss"] < then["base_held_out_loss"]
    assert then["reference_held_out_loss"]["central"] < then["base_held_out_loss"]
    digest = hashlib.sha256((tmp_path / "first" / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    assert digest in (tmp_path / "then" / "adapter" / "README.md").read_text()
    assert plait("verify", tmp_path / "then", "--allow", f"init-adapter={tmp_path / 'first'}").code == 0
    own = {"--data": jsonl, "--dtype": "float32", "--max-sequences": 4000, "--seq-len": 32}
    flat = [str(part) for pair in own.items() for part in pair]
    before, after = (
        json.loads(plait("eval", "--adapter", tmp_path / run, *flat, "--json").out) for run in ("first", "then")
    )
    assert before["base"] == after["base"]
    assert after["adapter"]["loss"] < before["adapter"]["loss"]

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from plait.adapters import BaseReference
from plait.aggregation import geometry_of
from plait.errors import BaseMismatchError, ConfigError
from plait.exporting.source import Source, open_source
from plait.features.exports.merging import merge
from plait.training.bases import locate_base

TOKENS = torch.tensor([[5, 17, 300, 41, 999, 1203, 8, 64]])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Adapters of different ranks, scales and modules."""
    made: dict[str, Path] = {}
    settings = {
        "one": {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]},
        "two": {"r": 3, "lora_alpha": 3, "target_modules": ["q_proj", "v_proj"]},
    }
    tiny = locate_base("tiny")
    for seed, (name, own) in enumerate(settings.items()):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **own))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(str(made[name]), save_embedding_layers=False)
    return made


@pytest.fixture(scope="module")
def sources(places: dict[str, Path]) -> tuple[Source, Source]:
    return open_source(places["one"], base="tiny"), open_source(places["two"], base="tiny")


def changes(source_spec, state) -> dict[str, np.ndarray]:
    return {
        pair.module: pair.scale * pair.b_of(state.flat).astype(np.float64) @ pair.a_of(state.flat).astype(np.float64)
        for pair in geometry_of(source_spec).pairs
    }


def of(source: Source) -> dict[str, np.ndarray]:
    return changes(source.spec, source.state)


def test_the_linear_merge_is_the_weighted_sum_of_the_changes(sources) -> None:
    one, two = sources
    merged = merge([(one, 0.5), (two, -2.0)])
    found, first, second = changes(merged.spec, merged.state), of(one), of(two)
    assert found.keys() == first.keys() | second.keys()
    for module, change in found.items():
        expected = 0.5 * first.get(module, 0) - 2.0 * second.get(module, 0)
        np.testing.assert_allclose(change, expected, atol=1e-6)
    assert merged.lost < 1e-7
    assert [(parent.digest, parent.weight) for parent in merged.parents] == [(one.digest, 0.5), (two.digest, -2.0)]


def test_ties_trims_elects_and_averages(sources) -> None:
    """Entry by entry, as the paper's section 4 says; rank 64 is that of the whole matrix of keys and values."""
    one, two = sources
    merged = merge([(one, 0.25), (two, 0.75)], how="ties", density=0.3, rank=128)
    found = changes(merged.spec, merged.state)
    for module in [name for name in found if "q_proj" in name][:1]:
        kept = []
        for dense in (of(one)[module], of(two)[module]):
            count = round(0.3 * dense.size)
            smallest = sorted(np.abs(dense).ravel(), reverse=True)[count - 1]
            kept.append(np.where(np.abs(dense) >= smallest, dense, 0))
        expected = np.zeros_like(kept[0])
        for at in np.ndindex(expected.shape):
            a, b = kept[0][at], kept[1][at]
            elected = np.sign(0.25 * a + 0.75 * b)
            agreeing = [
                (weight, value) for weight, value in ((0.25, a), (0.75, b)) if value and np.sign(value) == elected
            ]
            if agreeing:
                expected[at] = sum(w * v for w, v in agreeing) / sum(w for w, _ in agreeing)
        np.testing.assert_allclose(found[module], expected, atol=1e-5)


@pytest.mark.slow
def test_dare_keeps_the_share_and_its_mean_is_the_sum(sources) -> None:
    one, two = sources
    exact = changes(*(lambda m: (m.spec, m.state))(merge([(one, 0.5), (two, 0.5)])))
    runs = [merge([(one, 0.5), (two, 0.5)], how="dare", density=0.5, rank=128, seed=seed) for seed in range(24)]
    module = next(name for name in exact if "down_proj" in name)
    drawn = np.stack([changes(run.spec, run.state)[module] for run in runs])
    # Of one adapter only: an entry is dropped, or twice its weighted self.
    share = np.mean(np.abs(drawn[0]) > 1e-6)
    assert share == pytest.approx(0.5, abs=0.02)
    deviation = np.linalg.norm(drawn.mean(0) - exact[module]) / np.linalg.norm(exact[module])
    # A mean of n draws is off by sqrt((1 - p) / (p n)).
    assert deviation == pytest.approx(np.sqrt(1 / 24), rel=0.15)
    again = merge([(one, 0.5), (two, 0.5)], how="dare", density=0.5, rank=128, seed=3)
    assert again.state.digest() == runs[3].state.digest()


def test_a_rank_that_cannot_hold_the_sum_says_what_it_lost(sources) -> None:
    one, two = sources
    merged = merge([(one, 1.0), (two, 1.0)], rank=2)
    dense = [first + of(two).get(module, 0) for module, first in of(one).items()]
    dense += [second for module, second in of(two).items() if module not in of(one)]
    lost = sum(np.square(np.linalg.svd(each, compute_uv=False)[2:]).sum() for each in dense)
    whole = sum(np.square(each).sum() for each in dense)
    assert merged.lost == pytest.approx(np.sqrt(lost / whole), rel=1e-5)


def test_the_command_writes_what_peft_loads_and_a_run_continues_from(
    places: dict[str, Path], sources, tmp_path: Path, plait: Callable
) -> None:
    out = tmp_path / "merged"
    ran = plait("merge", f"{places['one']}=2", f"{places['two']}=-1", "--base", "tiny", "--out", out, "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert (said["rank"], said["lost"] < 1e-7) == (5, True)
    assert [parent["weight"] for parent in said["parents"]] == [2.0, -1.0]
    assert [parent.digest for parent in open_source(out).parents] == [source.digest for source in sources]
    tiny = locate_base("tiny")

    def base() -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)

    dense = base()
    for factor, source in zip((2.0, -1.0), sources, strict=True):
        for module, change in of(source).items():
            weight = dense.get_submodule(module.removeprefix("base_model.model.")).weight
            weight.data += factor * torch.from_numpy(change).float()
    with torch.no_grad():
        got = PeftModel.from_pretrained(base(), out)(input_ids=TOKENS).logits
        torch.testing.assert_close(got, dense(input_ids=TOKENS).logits, rtol=0, atol=1e-4)


def test_what_cannot_be_merged_is_refused_in_one_line(sources, places, tmp_path: Path, plait: Callable) -> None:
    one, two = sources
    cases = [
        ([(one, 1.0), (two, 1.0)], {"how": "slerp"}, "--how is 'slerp', expected one of linear, ties, dare"),
        ([(one, 1.0), (two, 1.0)], {"how": "ties", "density": 0.0}, "--density is 0"),
        ([(one, 1.0), (two, 1.0)], {"density": 0.2}, "--density is 0.2 with --how linear, which keeps all"),
        ([(one, 1.0), (two, 1.0)], {"how": "ties", "seed": 0}, "--seed is 0 with --how ties, which draws nothing"),
        ([(one, 1.0), (two, -1.0)], {"how": "ties"}, "more than 0 with --how ties"),
        ([(one, 1.0), (two, float("nan"))], {}, "is nan, expected a number other than 0"),
    ]
    for given, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            merge(given, **options)
    other = replace(two, base=BaseReference("other", None, "0" * 64))
    with pytest.raises(BaseMismatchError, match="belongs to base 0000000000000000"):
        merge([(one, 1.0), (other, 1.0)])
    ran = plait("merge", places["one"], "--out", tmp_path / "x")
    assert (ran.code, ran.err) == (2, "error: plait merge has 1 adapter, expected at least two\n")
    ran = plait("merge", f"{places['one']}=2", places["two"], "--base", "tiny", "--out", tmp_path / "x")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "some adapters have weights and others none" in ran.err
    ran = plait("merge", *places.values(), "--base", "tiny", "--out", tmp_path / "x", "--seed", 0)
    assert ran.code == 2
    assert "--seed is 0 with --how linear" in ran.err.splitlines()[-1]
    assert not (tmp_path / "x").exists()

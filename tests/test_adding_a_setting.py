"""CONTRIBUTING.md's hyper-parameter and loss term, applied to the sources that it names and run."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def diff_of(file: str) -> list[str]:
    """The lines of the page's diff of this file."""
    found = re.search(rf"```diff\n # {re.escape(file)}\n(.*?)```", PAGE, re.DOTALL)
    assert found, f"no diff of {file}"
    return found[1].splitlines()


def patched(file: str) -> str:
    """The file as the page's diff makes it; its context has to be there."""
    lines = diff_of(file)
    before = "".join(f"{line[1:]}\n" for line in lines if line[0] != "+")
    after = "".join(f"{line[1:]}\n" for line in lines if line[0] != "-")
    source = (ROOT / file).read_text() if before else ""
    assert source.count(before) == 1 or not before
    return source.replace(before, after) if before else after


def module(name: str, source: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    made = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, made)
    exec(compile(source, name, "exec"), made.__dict__)
    return made


VALUES = {
    "local_steps": 4, "batch_size": 2, "gradient_accumulation_steps": 1, "seq_len": 8, "learning_rate": 1e-3,
    "weight_decay": 0.0, "max_grad_norm": 1.0, "held_out_fraction": 0.1, "max_held_out_sequences": 4, "seed": 0,
}  # fmt: skip


def test_a_hyper_parameter_is_one_field_and_then_travels_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from plait.errors import PeerError
    from plait.wire.settings import Settings, settings_from

    made = module("plait_settings_with_one_more", patched("plait/wire/settings.py"), monkeypatch)
    assert made.Settings(**VALUES).text == Settings(**VALUES).text
    settings = made.Settings(**VALUES, lasso=0.5)
    of_task = {name: getattr(settings, name) for name in ("seed", "round", "done_steps", "trained", "steps")}
    assert made.settings_from(settings.text, of_task) == settings
    with pytest.raises(PeerError, match=r"lasso is -1\.0, expected 0 or more"):
        _ = made.Settings(**VALUES, lasso=-1.0).text
    with pytest.raises(PeerError, match="settings hold 'lasso'"):
        settings_from(settings.text, of_task)


def test_a_loss_term_is_one_file_and_reaches_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from plait.adapters import Task
    from plait.training import learner, loss_terms
    from plait.training.examples import Example
    from plait.training.learner import Learner, TrainingInputs

    made = module("plait_settings_with_one_more", patched("plait/wire/settings.py"), monkeypatch)
    term = module("plait_lasso", patched("plait/training/lasso.py"), monkeypatch)
    table = "\n".join(line[1:] for line in diff_of("plait/training/loss_terms.py") if line[0] == "+")
    names = {"LossTerm": loss_terms.LossTerm, "Proximal": loss_terms.Proximal, "Lasso": term.Lasso}
    exec(table, names)
    monkeypatch.setattr(loss_terms, "TERMS", names["TERMS"])
    settings = replace(made.Settings(**VALUES, lasso=0.5), max_grad_norm=1e9)
    tokens = np.arange(8)
    inputs = TrainingInputs([Example(tokens, tokens)], settings, np.ones(3, np.float32))
    taught = Learner(inputs, [3], [True], task=Task.CAUSAL_LM, device=torch.device("cpu"))
    taught._optimizer.master.copy_(torch.tensor([3.0, 1.0, -2.0]))
    stepped: list[list[float]] = []
    monkeypatch.setattr(taught._optimizer, "step", lambda _: stepped.append(taught._optimizer.gradient.tolist()))
    taught.step([torch.zeros(3)], 1.0)
    assert stepped == [[0.5, 0.0, -0.5]]
    test = {"torch": torch, "replace": replace, "SETTINGS": made.Settings(**VALUES), "Lasso": term.Lasso}
    exec(patched("tests/plait/training/test_lasso.py"), test)
    test["test_it_pulls_every_value_back_with_the_same_strength"]()
    assert learner.terms_of(settings) == (term.Lasso(),)

import warnings
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from plait.adapters import AdapterState, AdapterTask, parse_spec, save_peft_directory
from plait.adapters.methods import METHODS
from plait.errors import ConfigError
from plait.training.blueprint import AdapterTemplate, design_from_spec, read_base_config
from plait.training.examples import Example
from plait.training.peft_adapter import servable
from plait.training.resident import ResidentBase
from tests.plait.training.conftest import SETTINGS, designed, train_on

TOKENS = torch.tensor([[5, 17, 300, 41, 999, 1203, 8, 64]])
TWO_STEPS = replace(SETTINGS, local_steps=2, batch_size=1, seq_len=24, lr_schedule="constant", seed=0)
PLAIN = [name for name, method in METHODS.items() if not method.quantised]


made = cache(designed)


def trained(resident: ResidentBase, blueprint: AdapterTemplate) -> AdapterState:
    """Two steps at a high rate, so that everything has moved."""
    tokens = np.arange(3, 27, dtype=np.int32)
    done = train_on(resident, blueprint, [Example(tokens, tokens)], TWO_STEPS)
    return done.state


# PEFT still hands its prefix over under a name that transformers is about to drop.
@pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(each, marks=pytest.mark.slow) for each in PLAIN if each != "lora")]
)
def test_a_trained_adapter_reloads_in_plain_peft_with_equal_logits(method, tiny, resident, tmp_path):
    blueprint = made(tiny, method)
    after = trained(resident, blueprint)
    assert not np.array_equal(after.flat, blueprint.initial.flat)
    ours = resident.with_adapter(blueprint.spec, after).eval()
    with torch.no_grad():
        expected = ours(input_ids=TOKENS).logits[:, -TOKENS.shape[1] :]
        with ours.disable_adapter():
            bare = ours(input_ids=TOKENS).logits
    spec, state = servable(blueprint.spec, after)
    save_peft_directory(tmp_path / "out", spec=spec, state=state, base=tiny.reference, card="")
    plain = AutoModelForCausalLM.from_pretrained(tiny.directory, dtype=torch.float32, trust_remote_code=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # VeRA: its matrices come from a seed
        reloaded = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    with torch.no_grad():
        got = reloaded(input_ids=TOKENS).logits[:, -TOKENS.shape[1] :]
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-4)
    assert (expected - bare).abs().max() > 1e-3


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("prompt", "prefix", "p_tuning")])
def test_the_initial_adapter_changes_nothing(method, tiny, resident):
    if METHODS[method].quantised:
        pytest.skip("its base is another one")
    blueprint = made(tiny, method)
    model = resident.with_adapter(blueprint.spec, blueprint.initial).eval()
    with torch.no_grad():
        adapted = model(input_ids=TOKENS).logits
        with model.disable_adapter():
            torch.testing.assert_close(adapted, model(input_ids=TOKENS).logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_peer_derives_the_same_adapter_from_the_spec_alone(method, tiny):
    ours = made(tiny, method)
    config = read_base_config(tiny.directory, AdapterTask.CAUSAL_LM)
    theirs = design_from_spec(config, parse_spec(ours.spec.text), weights=tiny.directory)
    assert theirs.spec.digest == ours.spec.digest
    assert theirs.initial.digest() == ours.initial.digest()
    assert len(ours.spec.text) < 700


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "houlsby"}, "did you mean 'bottleneck'"),
        ({"method": "bottleneck", "dropout": 0.1}, "dropout is set, but method 'bottleneck' has none"),
        ({"method": "prompt", "target_modules": "q_proj"}, "target-modules is set, but method 'prompt' has none"),
        ({"target_modules": "v_proj,qproj"}, "has 'qproj', which matches no module .* did you mean 'q_proj'"),
        ({"method": "lora_xs", "rank": 200}, "does not fit this base: `r` .200. must be less"),
    ],
)
def test_what_cannot_be_is_refused_with_the_nearest(options, message, tiny):
    with pytest.raises(ConfigError, match=message):
        designed(tiny, **options)

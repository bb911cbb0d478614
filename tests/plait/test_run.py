from dataclasses import replace

import pytest

from plait.adapters import AdapterTask, Layout
from plait.adapters.methods import METHODS
from plait.config import config_from_table
from plait.errors import PolicyError
from plait.policy import Policy
from plait.run import _check_reach, blueprint_of, resolve
from plait.settle import settle
from plait.training.bases import locate_base
from plait.training.blueprint import base_modules, read_base_config
from plait.wire.welcome import config_from_welcome, welcome_table


@pytest.mark.slow
def test_an_adapter_follows_from_its_own_settings_alone():
    config = config_from_table({"base": "tiny", "rank": 2})
    first = resolve(settle(config)).ranks.master.spec
    same = resolve(settle(config.model_copy(update={"out": "elsewhere", "partition": "iid", "rounds": 9})))
    assert same.ranks.master.spec.digest == first.digest
    for changed in ({"seed": 1}, {"alpha": 1.0}, {"rank": 4}):
        other = resolve(settle(config.model_copy(update=changed)))
        assert other.ranks.master.spec.digest != first.digest


@pytest.mark.slow
def test_a_client_with_the_servers_welcome_resolves_the_same_run():
    server = resolve(settle(config_from_table({"base": "tiny", "rule": "flexlora", "client-ranks": "2,8"})))
    client = resolve(settle(config_from_welcome(welcome_table(server.config.to_table()))))
    assert client.terms("ada", max_rank=4) == server.terms("ada", max_rank=4)
    assert client.base_fingerprint == server.base_fingerprint


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"full", "qlora"}))
def test_the_default_policy_takes_every_ordinary_method(method):
    config = config_from_table({"base": "tiny", "method": method, "personalize": 0.0})
    terms = resolve(settle(config)).terms("ada", policy=Policy())
    assert terms.own.method == method


def test_the_default_policy_takes_a_classifier_with_its_new_head():
    config = config_from_table({"base": "tiny", "labels": "a,b"})
    terms = resolve(settle(config)).terms("ada", policy=Policy())
    assert any("score" in name for name in terms.own.layout.by_name)


def test_an_adapter_that_reaches_embeddings_or_the_output_layer_is_refused_by_what_it_touches():
    directory = locate_base("tiny").directory
    base = base_modules(read_base_config(directory, AdapterTask.CAUSAL_LM), AdapterTask.CAUSAL_LM)
    spec = blueprint_of(settle(config_from_table({"base": "tiny", "rank": 2})), directory).spec
    _check_reach(Policy(), spec, base)
    for name, key in (
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings"),
        ("base_model.model.model.some_name.lora_embedding_B", "embeddings"),
        ("base_model.model.lm_head.lora_A.weight", "output-layer"),
        ("base_model.model.something_new.weight", "output-layer"),
    ):
        reaching = replace(spec, layout=Layout.of({name: [2, 3]}))
        with pytest.raises(PolicyError, match=f"{key} of this client's policy"):
            _check_reach(Policy(), reaching, base)
        _check_reach(Policy(embeddings=True, output_layer=True), reaching, base)


@pytest.mark.slow
@pytest.mark.parametrize(("given", "own"), [({}, 8), ({"client-ranks": "2,4,8", "rule": "flexlora"}, 4)])
def test_a_client_is_asked_about_the_largest_adapter_and_holds_its_own(given, own):
    config = config_from_table({"base": "tiny", **given})
    terms = resolve(settle(config)).terms("ada", max_rank=5)
    assert [spec.rank for spec in terms.specs] == [8, own]
    assert terms.own.rank == own

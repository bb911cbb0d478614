"""Hostile specifications of an adapter, and configurations of a stranger's PEFT directory; the types of all cases."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from plait.adapters import AdapterState, Json
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import Direction, Header, seal

BOMB = "(([a-z_.]+)+)+$"
OUTSIDE = "/hostile-outside"
TRAINER = "hostile_trainer:build"


class Target(StrEnum):
    """What a case is handed to."""

    SPEC = "spec"  # a participant that checks nothing else: text of a specification
    DIRECTORY = "directory"  # what reads a stranger's PEFT directory: adapter_config.json
    TASK = "task"  # a node at work on an honest run: (message type, bytes of a task)
    WELCOME = "welcome"  # a node that is taken in: its run configuration


@dataclass(frozen=True)
class Honest:
    """What an honest server would have said; cases are made by changing it."""

    run: Mapping[str, Json]
    spec: str
    spec_digest: bytes
    initial: AdapterState
    fingerprint: bytes
    run_id: bytes
    describe: bytes = b""
    train: bytes = b""
    evaluate: bytes = b""

    @property
    def facts(self) -> dict[str, Json]:
        return json.loads(self.spec)

    def header(self) -> Header:
        """Of the whole adapter that round 1 begins with."""
        return Header(
            direction=Direction.BROADCAST, run_id=self.run_id, round=0, client="", base_fingerprint=self.fingerprint,
            spec_digest=self.spec_digest, result_digest=self.initial.digest(), spec_json=self.spec,
        )  # fmt: skip

    def broadcast(self) -> bytes:
        """The whole adapter, exact."""
        return seal(self.header(), encode_delta(self.initial, codec_for("fp32"))).data


@dataclass(frozen=True)
class Case:
    """One hostile thing."""

    name: str
    target: Target
    make: Callable[[Honest], object]


# Values that are wrong for any key that they are not named for.
WRONG: Mapping[str, Json] = {
    "a regular expression": BOMB,
    "a path": OUTSIDE,
    "2**62": 2**62,
    "a table": {BOMB: 2**31},
    "a deep list": [[[[[[[[["x"]]]]]]]]],
}
LORA_KEYS = (
    "alora_invocation_tokens", "alpha_pattern", "arrow_config", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "init_lora_weights", "kasa_config", "layer_replication",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type",
    "qalora_group_size", "r", "rank_pattern", "runtime_config", "target_modules", "target_parameters", "task_type",
    "trainable_token_indices", "use_bdlora", "use_dora", "use_qalora", "use_rslora", "velora_config", "auto_mapping",
)  # fmt: skip


def with_settings(**entries: Json) -> Callable[[Honest], str]:
    """The honest specification with these in PEFT's configuration."""

    def make(honest: Honest) -> str:
        facts = honest.facts
        facts["peft_config"] = {**facts["peft_config"], **entries}  # pyright: ignore[reportGeneralTypeIssues]
        return json.dumps(facts)

    return make


def spec(name: str, make: Callable[[Honest], str]) -> Case:
    return Case(f"spec: {name}", Target.SPEC, make)


def specs() -> Iterator[Case]:
    """LoRA's own keys, each with what it must not say."""
    for key in LORA_KEYS:
        for what, value in WRONG.items():
            yield spec(f"{key} is {what}", with_settings(**{key: value}))
    named: list[tuple[str, dict[str, Json]]] = [
        ("rank 0", {"r": 0}), ("rank -1", {"r": -1}), ("rank 4,000 on every layer", {"r": 4000}),
        ("rank 200,000", {"r": 200_000}), ("rank 2**30", {"r": 2**30}),
        ("rank 8.5", {"r": 8.5}), ("rank true", {"r": True}), ("rank '8'", {"r": "8"}), ("no rank", {"r": None}),
        ("alpha 1e300", {"lora_alpha": 1e300}), ("alpha -1", {"lora_alpha": -1}),
        ("dropout 1", {"lora_dropout": 1.0}), ("dropout -1", {"lora_dropout": -1.0}),
        ("PiSSA for ever", {"init_lora_weights": "pissa_niter_100000000"}), ("PiSSA", {"init_lora_weights": "pissa"}),
        ("OLoRA", {"init_lora_weights": "olora"}), ("LoftQ", {"init_lora_weights": "loftq"}),
        ("EVA", {"init_lora_weights": "eva", "eva_config": {"rho": 2}}), ("CorDA", {"init_lora_weights": "corda"}),
        ("targets of every name", {"target_modules": ".*"}), ("targets as a bomb", {"target_modules": [BOMB]}),
        ("targets up a path", {"target_modules": ["../../etc/passwd"]}), ("no target", {"target_modules": []}),
        ("100,000 targets", {"target_modules": [f"m{n}" for n in range(100_000)]}),
        ("a target of 100,000 letters", {"target_modules": ["q" * 100_000]}),
        ("a target with a newline", {"target_modules": ["q_proj\n"]}), ("a target of none", {"target_modules": [None]}),
        ("an exclusion of plain names as a bomb", {"exclude_modules": [BOMB, "q_proj"]}),
        ("a rank by bomb", {"rank_pattern": {BOMB: 8}}), ("an alpha by bomb", {"alpha_pattern": {BOMB: 8}}),
        ("a rank by name, 2**30", {"rank_pattern": {"q_proj": 2**30}}),
        ("a rank by name, -1", {"rank_pattern": {"q_proj": -1}}),
        ("an alpha by name, text", {"alpha_pattern": {"q_proj": "x"}}),
        ("layers by bomb", {"layers_pattern": BOMB, "layers_to_transform": [0]}),
        ("layers by bombs", {"layers_pattern": [BOMB], "layers_to_transform": [0]}),
        ("all of the base to save", {"modules_to_save": ["model"]}), ("bombs to save", {"modules_to_save": [BOMB]}),
        ("one token's embedding", {"trainable_token_indices": [17]}),
        ("tokens of a module", {"trainable_token_indices": {"embed_tokens": [17]}}),
        ("layers a million times", {"layer_replication": [[0, 4]] * 1_000_000}),
        ("a layer by number of none", {"layers_to_transform": [10**9]}),
        ("parameters by bomb", {"target_parameters": [BOMB]}),
        ("Megatron of a module", {"megatron_config": {}, "megatron_core": "hostile_trainer"}),
        ("a class to load", {"auto_mapping": {"base_model_class": "T", "parent_library": "hostile_trainer"}}),
        ("an unknown key", {"hostile": 1}), ("a key of control characters", {"\x1b[2J": 1}),
        ("a key of 100,000 letters", {"k" * 100_000: 1}),
        ("100,000 keys", {f"k{n}": 1 for n in range(100_000)}),
        ("NaN for a rank", {"r": math.nan}), ("infinity for an alpha", {"lora_alpha": math.inf}),
        ("a rank of 5,000 digits", {"r": 10**4000}),
    ]  # fmt: skip
    for name, entries in named:
        yield spec(name, with_settings(**entries))


# Other methods' keys, over what plait itself writes for each.
_METHODS: Mapping[str, dict[str, Json]] = {
    "prompt": {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "prompt_tuning_init": "SAMPLE_VOCAB"},
    "prefix": {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4},
    "p_tuning": {"peft_type": "P_TUNING", "num_virtual_tokens": 4, "encoder_hidden_size": 128},
    "lora_xs": {"peft_type": "PSOFT", "r": 4, "target_modules": ["q_proj"], "psoft_orth": False, "psoft_alpha": 4},
    "vera": {"peft_type": "VERA", "r": 4, "target_modules": ["q_proj"], "save_projection": False},
    "peanut": {"peft_type": "PEANUT", "r": 4, "target_modules": ["q_proj"]},
    "ia3": {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []},
    "full": {"peft_type": "LN_TUNING", "target_modules": ["q_proj"]},
}


def of_method(method: str, entries: Mapping[str, Json]) -> Callable[[Honest], str]:
    def make(honest: Honest) -> str:
        config = {"task_type": "CAUSAL_LM", **_METHODS[method], **entries}
        return json.dumps({**honest.facts, "method": method, "peft_config": config})

    return make


def other_methods() -> Iterator[Case]:
    table: list[tuple[str, str, dict[str, Json]]] = [
        ("prompt", "text and a path", {
            "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x", "tokenizer_name_or_path": OUTSIDE}),
        ("prompt", "text and a hub id", {
            "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x", "tokenizer_name_or_path": "gpt2"}),
        ("prompt", "arguments of a tokenizer", {"tokenizer_kwargs": {"trust_remote_code": True}}),
        ("prompt", "a way to begin of none", {"prompt_tuning_init": OUTSIDE}),
        ("prefix", "a projection", {"prefix_projection": True, "encoder_hidden_size": 2**20}),
        ("prefix", "weights of a file", {"init_weights": OUTSIDE}),
        ("p_tuning", "an encoder 10,000 deep", {"encoder_num_layers": 10_000}),
        ("p_tuning", "an encoder 2**24 wide", {"encoder_hidden_size": 2**24}),
        ("p_tuning", "an LSTM 2**20 wide",
         {"encoder_reparameterization_type": "LSTM", "encoder_hidden_size": 2**20, "encoder_num_layers": 50}),
        ("lora_xs", "iterations for ever", {"psoft_svd_lowrank_niter": 10**9}),
        ("lora_xs", "rank 2**30", {"r": 2**30}), ("lora_xs", "rank 200,000", {"r": 200_000}),
        ("lora_xs", "Cayley terms for ever", {
            "psoft_orth": True, "use_cayley_neumann": True, "num_cayley_neumann_terms": 10**9}),
        ("lora_xs", "PiSSA for ever", {"ab_svd_init": "pissa_niter_100000000"}),
        ("vera", "rank 2**30", {"r": 2**30}), ("vera", "a seed of text", {"projection_prng_key": BOMB}),
        ("peanut", "a million layers", {"depth": 1_000_000}), ("peanut", "rank 2**30", {"r": 2**30}),
        ("peanut", "a function by name", {"act_fn": "__import__"}),
        ("peanut", "a scaling of infinity", {"scaling": 1e308}),
        ("ia3", "a bomb for feedforward", {"feedforward_modules": BOMB}),
        ("ia3", "bombs for feedforward", {"feedforward_modules": [BOMB]}),
    ]  # fmt: skip
    for method in _METHODS:
        table += [
            (method, f"{key} as a bomb", {key: BOMB})
            for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern")
        ]
    for method in ("prompt", "prefix", "p_tuning"):
        table += [
            (method, f"{tokens:,} virtual tokens", {"num_virtual_tokens": tokens}) for tokens in (0, -1, 10**6, 2**40)
        ]
        table += [(method, f"{key} of 2**30", {key: 2**30}) for key in ("token_dim", "num_layers")]
    for method, name, entries in table:
        yield spec(f"{method} with {name}", of_method(method, entries))


def raw_specs() -> Iterator[Case]:

    def facts(**entries: Json) -> Callable[[Honest], str]:
        return lambda honest: json.dumps({**honest.facts, **entries})

    yield spec("nothing", lambda h: "")
    yield spec("a number", lambda h: "1")
    yield spec("a list", lambda h: "[]")
    yield spec("brackets 100,000 deep", lambda h: "[" * 100_000)
    yield spec("tables 100,000 deep", lambda h: '{"a":' * 100_000)
    yield spec("closed brackets 5,000 deep", lambda h: "[" * 5_000 + "]" * 5_000)
    yield spec("a megabyte of spaces", lambda h: " " * (1 << 20))
    yield spec("a key twice", lambda h: h.spec[:-1] + ',"method":"lora"}')
    yield spec("NaN", lambda h: h.spec.replace('"init_seed":0', '"init_seed":NaN'))
    yield spec("a seed of a million digits", lambda h: h.spec.replace('"init_seed":0', f'"init_seed":{"9" * 10**6}'))
    yield spec("a seed of 1e999", lambda h: h.spec.replace('"init_seed":0', '"init_seed":1e999'))
    yield spec("no configuration", facts(peft_config=None))
    yield spec("a configuration of text", facts(peft_config=BOMB))
    yield spec("another method of PEFT", facts(method="boft"))
    yield spec("a method of a path", facts(method=OUTSIDE))
    yield spec("a method and another type", facts(method="vera"))
    yield spec("a task of none", facts(task="seq2seq"))
    yield spec("a million labels", facts(task="classification", labels=[str(n) for n in range(10**6)]))
    yield spec("an initial rank of 2**40", facts(init_rank=2**40))
    yield spec("an initial rank of 100,000", facts(init_rank=100_000))
    yield spec("a negative seed", facts(init_seed=-1))
    yield spec("a seed of 2**70", facts(init_seed=2**70))
    yield spec("an unknown key beside the configuration", facts(hostile=1))


def directories() -> Iterator[Case]:
    """What a stranger's adapter_config.json must not say."""
    table: list[tuple[str, dict[str, Json]]] = [
        ("targets as a bomb", {"target_modules": BOMB}), ("exclusions as a bomb", {"exclude_modules": BOMB}),
        ("a rank by bomb", {"rank_pattern": {BOMB: 8}}), ("an alpha by bomb", {"alpha_pattern": {BOMB: 8}}),
        ("layers by bomb", {"layers_pattern": BOMB, "layers_to_transform": [0]}),
        ("modules to save by bomb", {"modules_to_save": [BOMB]}), ("rank 2**30", {"r": 2**30}),
        ("rank 200,000", {"r": 200_000}), ("PiSSA for ever", {"init_lora_weights": "pissa_niter_100000000"}),
        ("Megatron of a module", {"megatron_config": {}, "megatron_core": "hostile_trainer"}),
        ("a prompt of a tokenizer elsewhere", {
            "peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": "x", "tokenizer_name_or_path": OUTSIDE}),
        ("an encoder 10,000 deep", {
            "peft_type": "P_TUNING", "num_virtual_tokens": 4, "encoder_hidden_size": 128,
            "encoder_num_layers": 10_000}),
        ("2**40 virtual tokens", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 2**40}),
        ("layers a million times", {"layer_replication": [[0, 4]] * 1_000_000}),
    ]  # fmt: skip
    for name, entries in table:
        yield Case(f"directory: {name}", Target.DIRECTORY, lambda h, e=entries: {**h.facts["peft_config"], **e})  # pyright: ignore

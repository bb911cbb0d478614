"""Named things that a hostile server says to a client: specifications, directories, settings, broadcasts, welcomes.

Knows nothing of how they are sent and of what becomes of them.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from plait.adapters import AdapterState, Json
from plait.v1 import envelope_pb2 as epb
from plait.v1 import messages_pb2 as pb
from plait.wire.codecs import codec_for
from plait.wire.envelope import Direction, Header, encode_delta, payload_digest, seal
from plait.wire.frame import join_frame, split_frame
from plait.wire.messages import encode_task

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
    """What an honest server would have said; cases are made by changing it.

    Attributes:
        run: the run configuration of the welcome.
        spec: the text of the adapter's specification.
        initial: the adapter of round 0.
        fingerprint: of the base.
        run_id: as broadcasts have it, 16 bytes.
        describe: the task that asks who the client is.
        train: the task of round 1.
        evaluate: the first task to measure.
        spec_digest: of the specification.
    """

    run: Mapping[str, Json]
    spec: str
    spec_digest: bytes
    initial: AdapterState
    fingerprint: bytes
    run_id: bytes
    describe: bytes
    train: bytes
    evaluate: bytes

    @property
    def facts(self) -> dict[str, Json]:
        """The specification, to be changed."""
        return json.loads(self.spec)

    def header(self) -> Header:
        """Of the whole adapter that round 1 begins with."""
        return Header(
            direction=Direction.BROADCAST,
            run_id=self.run_id,
            round=0,
            client="",
            base_fingerprint=self.fingerprint,
            spec_digest=self.spec_digest,
            result_digest=self.initial.digest(),
            spec_json=self.spec,
        )

    def broadcast(self) -> bytes:
        """The whole adapter, exact."""
        return seal(self.header(), encode_delta(self.initial, codec_for("fp32"))).data


@dataclass(frozen=True)
class Case:
    """One hostile thing.

    Attributes:
        name: what it is.
        target: what it is handed to.
        make: makes it of what an honest server says.
    """

    name: str
    target: Target
    make: Callable[[Honest], object]


def all_cases() -> list[Case]:
    """Every named case."""
    makers = (specs, other_methods, raw_specs, directories, settings, tasks, broadcasts, bases, welcomes)
    return [case for maker in makers for case in maker()]


# -- specifications ----------------------------------------------------------------------------------------------------

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


def _with(**entries: Json) -> Callable[[Honest], str]:
    """The honest specification with these in PEFT's configuration."""

    def make(honest: Honest) -> str:
        facts = honest.facts
        facts["peft_config"] = {**facts["peft_config"], **entries}  # pyright: ignore[reportGeneralTypeIssues]
        return json.dumps(facts)

    return make


def spec(name: str, make: Callable[[Honest], str]) -> Case:
    """A case of a specification."""
    return Case(f"spec: {name}", Target.SPEC, make)


def specs() -> Iterator[Case]:
    """LoRA's own keys, each with what it must not say."""
    for key in LORA_KEYS:
        for what, value in WRONG.items():
            yield spec(f"{key} is {what}", _with(**{key: value}))
    named: list[tuple[str, dict[str, Json]]] = [
        ("rank 0", {"r": 0}), ("rank -1", {"r": -1}), ("rank 200,000", {"r": 200_000}), ("rank 2**30", {"r": 2**30}),
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
        ("the embedding to save", {"modules_to_save": ["embed_tokens"]}),
        ("the output layer to save", {"modules_to_save": ["lm_head"]}),
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
        yield spec(name, _with(**entries))


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


def _of_method(method: str, entries: Mapping[str, Json]) -> Callable[[Honest], str]:
    def make(honest: Honest) -> str:
        config = {"task_type": "CAUSAL_LM", **_METHODS[method], **entries}
        return json.dumps({**honest.facts, "method": method, "peft_config": config})

    return make


def other_methods() -> Iterator[Case]:
    """What other methods' keys reach."""
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
        ("full", "the embedding", {"target_modules": ["embed_tokens"]}),
        ("full", "the output layer", {"target_modules": ["lm_head"]}),
        ("full", "the whole model", {"target_modules": ["model"]}),
    ]  # fmt: skip
    for method in _METHODS:
        for key in ("target_modules", "exclude_modules", "modules_to_save", "layers_pattern"):
            table.append((method, f"{key} as a bomb", {key: BOMB}))
    for method in ("prompt", "prefix", "p_tuning"):
        table += [
            (method, f"{tokens:,} virtual tokens", {"num_virtual_tokens": tokens}) for tokens in (0, -1, 10**6, 2**40)
        ]
        table += [(method, f"{key} of 2**30", {key: 2**30}) for key in ("token_dim", "num_layers")]
    for method, name, entries in table:
        yield spec(f"{method} with {name}", _of_method(method, entries))


def raw_specs() -> Iterator[Case]:
    """Texts that are no specification."""

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
        ("a class to load", {"auto_mapping": {"base_model_class": "T", "parent_library": "hostile_trainer"}}),
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


# -- tasks -------------------------------------------------------------------------------------------------------------


def _train(change: Callable[[pb.Task, Honest], None], kind: str = "train") -> Callable[[Honest], tuple[str, bytes]]:
    """The honest task of this kind, changed, whatever its writer would say to that."""

    def make(honest: Honest) -> tuple[str, bytes]:
        task = pb.Task.FromString({"train": honest.train, "evaluate": honest.evaluate, "query": honest.describe}[kind])
        change(task, honest)
        return kind, task.SerializeToString(deterministic=True)

    return make


def settings() -> Iterator[Case]:
    """Settings out of bounds, or others than the run's."""
    numbers: Mapping[str, tuple[float | int, ...]] = {
        "local_steps": (0, 1, 3, 5, 10**6, 2**32 - 1),
        "batch_size": (0, 1, 5, 10**6, 2**32 - 1),
        "gradient_accumulation_steps": (0, 2, 10**6, 2**32 - 1),
        "seq_len": (0, 1, 2, 8, 127, 129, 10**6, 2**32 - 1),
        "learning_rate": (0.0, -1.0, 1e-30, 1e9, math.nan, math.inf),
        "weight_decay": (-1.0, 0.5, math.nan, 1e300),
        "max_grad_norm": (0.0, 1e-12, 1e12, math.nan),
        "held_out_fraction": (0.0, 1e-9, 0.5, 0.999, 1.0, math.nan),
        "max_held_out_sequences": (0, 1, 2**32 - 1),
        "seed": (0, 1, 2**64 - 1),
        "warmup_steps": (1, 2**32 - 1),
        "lr_schedule": (0, 2, 3, 4, 99),
        "round": (0, 2, 3, 10**6, 2**32 - 1),
        "total_steps": (0, 1, 2**63, 2**64 - 1),
        "done_steps": (1, 8, 2**63, 2**64 - 1),
        "trained": (1, 2, 3, 99),
        "personal": (1, 2, 3, 99),
        "proximal": (-1.0, 1.0, 1e300, math.nan),
        "own_share": (0.1, 0.999, 1.0, -1.0, math.nan),
        "carry_moments": (True, False),
        "scaffold": (True,),
        "without_feedback": (True,),
    }  # fmt: skip
    wires = ("fp32", "bf16", "8", "2", "0.1", "", "nan", "-1", "1e-300", "int8", "../x", "x" * 10**5)
    # What measuring depends on.
    measured = {"batch_size", "seq_len", "held_out_fraction", "max_held_out_sequences", "personal"}
    table = [(field, value) for field, values in numbers.items() for value in values]
    for field, value in [*table, *(("wire", wire) for wire in wires)]:
        for kind in ("train", "evaluate") if field in measured else ("train",):

            def change(task: pb.Task, honest: Honest, kind=kind, field=field, value=value) -> None:
                said = getattr(task, kind).settings
                if field == "carry_moments" and getattr(said, field) == value:
                    value = not value
                setattr(said, field, value)

            shown = ascii(value) if len(ascii(value)) < 40 else f"{len(ascii(value))} long"
            yield Case(f"{kind}: {field} is {shown}", Target.TASK, _train(change, kind))

    for field, value in (("seq_len", 2), ("batch_size", 2**32 - 1), ("held_out_fraction", 0.5), ("local_steps", 0)):

        def describe(task: pb.Task, honest: Honest, field=field, value=value) -> None:
            setattr(task.describe.settings, field, value)

        yield Case(f"describe: {field} is {value}", Target.TASK, _train(describe, "query"))


def tasks() -> Iterator[Case]:
    """Bytes that are no task, or one of another kind, or with another adapter."""

    def raw(name: str, forge: Callable[[bytes], bytes], kind: str = "train") -> Case:
        return Case(f"task: {name}", Target.TASK, lambda h: (kind, forge(h.train)))

    yield raw("nothing", lambda t: b"")
    yield raw("text", lambda t: b"hello")
    yield raw("a megabyte of zeros", lambda t: bytes(1 << 20))
    yield raw("a schema of the future", lambda t: b"\x08\x02" + t[2:])
    yield raw("a schema alone", lambda t: b"\x08\x01")
    yield raw("an unknown field", lambda t: t + b"\x7a\x01x")
    yield raw("bytes after the end", lambda t: t + b"\0")
    for count in (1, 2, 3, 9, 33, 129, 1025):
        yield raw(f"cut at byte {count}", lambda t, n=count: t[:n])
        yield raw(f"without its last {count} bytes", lambda t, n=count: t[:-n])
    yield Case("task: two kinds in one", Target.TASK, lambda h: ("train", h.train + h.evaluate[2:]))
    embeddings: Json = ["embed_tokens", "lm_head"]
    others: list[tuple[str, dict[str, Json]]] = [
        ("embedding and output layer at rank 1", {"r": 1, "lora_alpha": 1, "target_modules": embeddings}),
        ("rank 1", {"r": 1}), ("rank 64", {"r": 64}), ("rank 128", {"r": 128}), ("another alpha", {"lora_alpha": 1}),
        ("the embedding besides", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("one layer only", {"target_modules": ["q_proj"]}), ("dropout", {"lora_dropout": 0.5}),
        ("biases", {"bias": "all"}), ("rsLoRA", {"use_rslora": True}), ("DoRA", {"use_dora": True}),
        ("a token's row", {"trainable_token_indices": [17]}), ("a rank by name", {"rank_pattern": {"q_proj": 64}}),
    ]  # fmt: skip
    for name, entries in others:

        def describe(task: pb.Task, honest: Honest, entries=entries) -> None:
            task.describe.spec_json = _with(**entries)(honest)

        def train(task: pb.Task, honest: Honest, entries=entries) -> None:
            header = replace(honest.header(), spec_json=_with(**entries)(honest))
            task.train.broadcast = seal(header, encode_delta(honest.initial, codec_for("fp32"))).data

        yield Case(f"describe: {name}", Target.TASK, _train(describe, "query"))
        yield Case(f"train: {name}", Target.TASK, _train(train))
    for key, value in (("init_seed", 7), ("labels", ["a", "b"]), ("init_rank", 4), ("method", "rslora")):

        def other(task: pb.Task, honest: Honest, key=key, value=value) -> None:
            task.describe.spec_json = json.dumps({**honest.facts, key: value}, sort_keys=True, separators=(",", ":"))

        yield Case(f"describe: {key} is another", Target.TASK, _train(other, "query"))


def broadcasts() -> Iterator[Case]:
    """Envelopes whose header or numbers are others."""

    def said(name: str, **fields: object) -> Iterator[Case]:
        for kind in ("train", "evaluate"):

            def change(task: pb.Task, honest: Honest, kind=kind) -> None:
                frame = split_frame(honest.broadcast())
                header = epb.Header.FromString(bytes(frame.header))
                for field, value in fields.items():
                    setattr(header, field, value)
                if "payload_digest" not in fields:
                    header.payload_digest = payload_digest(
                        header.codec & 0x7FFFFFFF, header.codec_parameters, bytes(frame.payload)
                    )
                encoded = header.SerializeToString(deterministic=True)
                getattr(task, kind).broadcast = join_frame(encoded, bytes(frame.payload))

            yield Case(f"{kind}, broadcast: {name}", Target.TASK, _train(change, kind))

    table: list[tuple[str, object]] = [
        ("direction", 0), ("direction", 1), ("direction", 9), ("run_id", b""), ("run_id", b"r" * 15),
        ("run_id", b"R" * 16), ("round", 1), ("round", 7), ("round", 2**32 - 1), ("client", "another"),
        ("client", "x" * 10**5), ("base_fingerprint", b"g" * 32), ("base_fingerprint", b""),
        ("spec_digest", b"s" * 32), ("spec_digest", b""), ("relative_to", b"a"),
        ("result_digest", b"a" * 32), ("result_digest", b""), ("codec", 0), ("codec", 4), ("codec", 99),
        ("codec_parameters", bytes(10**5)), ("payload_digest", b"d" * 32), ("payload_digest", b""),
        ("spec_json", ""), ("spec_json", "[" * 10**5), ("spec_json", "x"), ("examples", 7),
    ]  # fmt: skip
    for field, value in table:
        shown = ascii(value) if len(ascii(value)) < 40 else f"{len(ascii(value))} long"
        if (field, value) == ("spec_json", ""):
            continue  # a client that holds the specification needs none
        yield from said(f"{field} is {shown}", **{field: value})

    yield from said("a step from an adapter of nobody", relative_to=b"a" * 32, result_digest=b"r" * 32)

    def numbers(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Case:
        def put(task: pb.Task, honest: Honest) -> None:
            frame = split_frame(honest.broadcast())
            header = epb.Header.FromString(bytes(frame.header))
            payload = change(np.frombuffer(bytes(frame.payload), "<f4").copy()).tobytes()
            header.payload_digest = payload_digest(header.codec, header.codec_parameters, payload)
            task.train.broadcast = join_frame(header.SerializeToString(deterministic=True), payload)

        return Case(f"train, broadcast: {name}", Target.TASK, _train(put))

    def first(value: float) -> Callable[[np.ndarray], np.ndarray]:
        def change(values: np.ndarray) -> np.ndarray:
            values[0] = value
            return values

        return change

    yield numbers("a NaN", first(math.nan))
    yield numbers("an infinity", first(math.inf))
    yield numbers("another value than its digest", first(1.0))
    yield numbers("one number short", lambda values: values[:-1])
    yield numbers("one number more", lambda values: np.append(values, np.float32(0)))
    yield numbers("no numbers", lambda values: values[:0])
    yield numbers("64 MB of numbers", lambda values: np.zeros(1 << 24, np.float32))


def bases(_: object = None) -> Iterator[Case]:
    """A base that is to have moved where the run's rule moves none."""

    def change(name: str, data: Callable[[Honest], bytes]) -> Case:
        def put(task: pb.Task, honest: Honest) -> None:
            task.train.base = data(honest)

        return Case(f"train, base: {name}", Target.TASK, _train(put))

    yield change("text", lambda h: b"hello")
    yield change("the broadcast again", lambda h: h.broadcast())
    yield change("a megabyte of zeros", lambda h: bytes(1 << 20))
    yield change("a step from a base of none", lambda h: _moved(h, relative_to=b"b" * 32))
    yield change("a whole base", _moved)
    yield change("of another run", lambda h: _moved(h, run_id=b"R" * 16))
    yield change("modules of a path", lambda h: _moved(h, spec_json=json.dumps([[OUTSIDE, 1]])))
    yield change("brackets 100,000 deep", lambda h: _moved(h, spec_json="[" * 100_000))


def _moved(honest: Honest, **changes: object) -> bytes:
    header = replace(
        honest.header(), **{"spec_json": "[]", "result_digest": hashlib.sha256(b"moved").digest(), **changes}
    )  # pyright: ignore
    return seal(header, encode_delta(honest.initial, codec_for("fp32"))).data


# -- welcomes ----------------------------------------------------------------------------------------------------------


def welcomes() -> Iterator[Case]:
    """Run configurations that no client should agree to."""
    table: list[tuple[str, dict[str, Json]]] = [
        ("base a hub id", {"base": "gpt2"}), ("base a hub id of somebody", {"base": "somebody/model"}),
        ("base a path", {"base": OUTSIDE}), ("base a path upwards", {"base": "../../../etc"}),
        ("base of the root", {"base": "/"}), ("base empty", {"base": ""}), ("base a number", {"base": 7}),
        ("base an address", {"base": "https://localhost:1/x"}), ("base 100,000 long", {"base": "x" * 100_000}),
        ("base with a zero byte", {"base": "tiny\0"}), ("a trainer", {"trainer": TRAINER}),
        ("a trainer of the library", {"trainer": "os:system"}), ("a trainer of a path", {"trainer": "/x/y:z"}),
        ("no step", {"local-steps": 0}), ("one step of one sequence", {"local-steps": 1, "batch-size": 1}),
        ("2**32 - 1 steps", {"local-steps": 2**32 - 1}), ("2**40 steps", {"local-steps": 2**40}),
        ("steps as text", {"local-steps": "4"}), ("steps as a fraction", {"local-steps": 4.5}),
        ("batches of 2**32 - 1", {"batch-size": 2**32 - 1}), ("accumulation of 2**32 - 1", {
            "gradient-accumulation-steps": 2**32 - 1}),
        ("sequences of 8", {"seq-len": 8}), ("sequences of 2", {"seq-len": 2}),
        ("sequences of 2**32 - 1", {"seq-len": 2**32 - 1}), ("a million rounds", {"rounds": 10**6}),
        ("2**62 rounds", {"rounds": 2**62}), ("no round", {"rounds": 0}), ("rank 0", {"rank": 0}),
        ("rank 4,096", {"rank": 4096}), ("rank 2**30", {"rank": 2**30}), ("rank as text", {"rank": "8"}),
        ("the embedding", {"target-modules": "embed_tokens"}), ("the output layer", {"target-modules": "lm_head"}),
        ("both at rank 1", {"target-modules": "embed_tokens,lm_head", "rank": 1}),
        ("the embedding besides", {"target-modules": "q_proj,embed_tokens"}),
        ("targets as a bomb", {"target-modules": BOMB}), ("targets of all", {"target-modules": ".*"}),
        ("a rank by bomb", {"rank-pattern": f"{BOMB}=4"}), ("a rank by name, 2**30", {"rank-pattern": "q_proj=1073741824"}),
        ("ranks of clients of text", {"client-ranks": BOMB}), ("a method of none", {"method": "hostile"}),
        ("a method of PEFT's", {"method": "boft"}), ("4,096 virtual tokens", {"method": "prompt", "virtual-tokens": 4096}),
        ("a rule of none", {"rule": "hostile"}), ("a wire of none", {"wire": "hostile"}), ("a wire of NaN", {"wire": "nan"}),
        ("a rate of 1e300", {"learning-rate": 1e300}), ("a rate of NaN", {"learning-rate": math.nan}),
        ("a rate below zero", {"learning-rate": -1.0}), ("gradients cut at 1e-12", {"max-grad-norm": 1e-12}),
        ("gradients cut at zero", {"max-grad-norm": 0.0}), ("all of it held out", {"held-out-fraction": 1.0}),
        ("decay of 1e300", {"weight-decay": 1e300}), ("a seed below zero", {"seed": -1}), ("a seed as text", {"seed": "x"}),
        ("an unknown key", {"hostile": 1}), ("a key of control characters", {"\x1b[2J": 1}),
        ("a device of text", {"device": BOMB}), ("threads below zero", {"threads": -1}),
        ("where to write", {"out": OUTSIDE}), ("where to publish", {"publish": "http://localhost:1"}),
        ("adapters to begin with", {"init-adapter": OUTSIDE}), ("data", {"data": OUTSIDE}),
        ("labels without end", {"labels": ",".join(map(str, range(200_000)))}),
    ]  # fmt: skip
    for name, entries in table:
        yield Case(f"welcome: {name}", Target.WELCOME, lambda h, e=entries: {**copy.deepcopy(dict(h.run)), **e})


def honest_tasks(honest: Honest, describe: object, train: object, evaluate: object) -> Honest:
    """With the bytes of the tasks that an honest server would send."""
    said = {"describe": describe, "train": train, "evaluate": evaluate}
    return replace(honest, **{name: b"".join(encode_task(task)) for name, task in said.items()})  # pyright: ignore

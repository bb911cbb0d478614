"""Tasks that differ from the client's welcome (settings, adapters, broadcasts), and welcomes themselves."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from scoreboard.hostile_specs import (
    BOMB,
    OUTSIDE,
    TRAINER,
    Case,
    Honest,
    Target,
    directories,
    of_method,
    other_methods,
    raw_specs,
    specs,
    with_settings,
)  # fmt: skip

from plait.adapters import Json
from plait.v1 import envelope_pb2 as epb
from plait.v1 import messages_pb2 as pb
from plait.wire.codecs import codec_for
from plait.wire.encoding import encode_delta
from plait.wire.envelope import join_frame, payload_digest, seal, split_frame


def _train(change: Callable[[pb.Task, Honest], None], kind: str = "train") -> Callable[[Honest], tuple[str, bytes]]:
    """The honest task of this kind, changed, whatever its writer would say to that."""

    def make(honest: Honest) -> tuple[str, bytes]:
        task = pb.Task.FromString({"train": honest.train, "evaluate": honest.evaluate, "query": honest.describe}[kind])
        change(task, honest)
        return kind, task.SerializeToString(deterministic=True)

    return make


def _case(name: str, change: Callable[[pb.Task, Honest], None], kind: str = "train") -> Case:
    return Case(name, Target.TASK, _train(change, kind))


def _settle(settings: pb.Settings, field: str, value: Json) -> None:
    """Another value of one setting; where the task has it already, none."""
    if field in ("seed", "round", "done_steps", "trained", "steps"):
        setattr(settings, field, value)
        return
    said = json.loads(settings.json)
    said.pop(field) if said.get(field) == value else said.update({field: value})
    _say(settings, json.dumps(said, sort_keys=True, separators=(",", ":")))


def _settled(part: str, field: str, value: Json) -> Callable[[pb.Task, Honest], None]:
    return lambda task, _: _settle(getattr(task, part).settings, field, value)


def _described(make: Callable[[Honest], str]) -> Callable[[pb.Task, Honest], None]:
    """Another specification."""
    return lambda task, honest: setattr(task.describe, "spec_json", make(honest))


def _say(settings: pb.Settings, text: str) -> None:
    settings.json, settings.digest = text, hashlib.sha256(text.encode()).digest()


def settings_texts() -> Iterator[Case]:
    """Texts of settings that are none, or under another digest."""
    forge: Mapping[str, Callable[[str], str]] = {
        "no JSON": lambda text: text[:-1],
        "a list": lambda text: f"[{text}]",
        "a megabyte": lambda text: text[:-1] + " " * (1 << 20) + "}",
        "nested deep": lambda text: '{"a":' * 10**4 + "1" + "}" * 10**4,
        "a number of many digits": lambda text: text.replace(":128", ":" + "1" * 5000),
        "a key twice": lambda text: text[:-1] + ',"seq_len":2}',
        "a key of the future": lambda text: text[:-1] + ',"zeal":1}',
        "a key of a task": lambda text: text[:-1] + ',"seed":1}',
        "a key too few": lambda text: text.replace('"seq_len"', '"bits"'),
        "spaces": lambda text: text.replace(":", ": "),
        "backwards": lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":")),
        "a surrogate": lambda text: text[:-1] + ',"bits":"\\ud800"}',
    }
    for kind in ("train", "evaluate"):

        def said(task: pb.Task, kind=kind) -> pb.Settings:
            return getattr(task, kind).settings

        for name, change in forge.items():
            say = lambda task, _, said=said, change=change: _say(said(task), change(said(task).json))  # noqa: E731
            yield _case(f"{kind}: settings are {name}", say, kind)
        for name, text in (("an unknown", ""), ("another's", None)):

            def under(task: pb.Task, _: Honest, said=said, text=text) -> None:
                said(task).digest = b"d" * 32
                said(task).json = said(task).json if text is None else text

            yield _case(f"{kind}: settings under {name} digest", under, kind)


def settings() -> Iterator[Case]:
    """Settings out of bounds, or others than the run's."""
    values_of: Mapping[str, tuple[Json, ...]] = {
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
        "lr_schedule": ("", "linear", "cosine", "constant", "step", 2),
        "lr_schedule_over": ("", "round", "epoch", 2),
        "round_epochs": (-1.0, 1e-9, 0.5, 1024.0, 1e300, math.nan, math.inf),
        "packing": (False, 0, ""),
        "round": (0, 2, 3, 10**6, 2**32 - 1),
        "total_steps": (0, 1, 2**63, 2**64 - 1),
        "done_steps": (1, 8, 2**63, 2**64 - 1),
        "trained": (1, 2, 3, 99),
        "steps": (1, 17, 10**6, 2**32 - 1),
        "personal": ("A", "B", "C", 1),
        "proximal": (-1.0, 1.0, 1e300, math.nan),
        "personalize": (0.1, 0.999, 1.0, -1.0, math.nan),
        "carry_moments": (True, False),
        "measures_slope": (True,),
        "found_rate_factor": (0.0, 2.0, 1e300, math.nan),
        "without_feedback": (True,),
    }  # fmt: skip
    wires = ("fp32", "bf16", "8", "2", "0.1", "", "nan", "-1", "1e-300", "int8", "../x", "x" * 10**5)
    # What measuring depends on.
    measured = {"batch_size", "seq_len", "held_out_fraction", "max_held_out_sequences", "personal"}
    table = [(field, value) for field, values in values_of.items() for value in values]
    for field, value in [*table, *(("bits", wire) for wire in wires)]:
        for kind in ("train", "evaluate") if field in measured else ("train",):
            shown = ascii(value) if len(ascii(value)) < 40 else f"{len(ascii(value))} long"
            yield _case(f"{kind}: {field} is {shown}", _settled(kind, field, value), kind)

    for field, value in (("seq_len", 2), ("batch_size", 2**32 - 1), ("held_out_fraction", 0.5), ("local_steps", 0)):
        yield _case(f"describe: {field} is {value}", _settled("describe", field, value), "query")


def tasks() -> Iterator[Case]:
    """Bytes that are no task, or one of another kind, or with another adapter."""

    def raw(name: str, forge: Callable[[bytes], bytes], kind: str = "train") -> Case:
        return Case(f"task: {name}", Target.TASK, lambda h: (kind, forge(h.train)))

    yield raw("nothing", lambda t: b"")
    yield raw("text", lambda t: b"hello")
    yield raw("a megabyte of zeros", lambda t: bytes(1 << 20))
    yield raw("a schema of the future", lambda t: bytes((t[0], t[1] + 1)) + t[2:])
    yield raw("a schema of the past", lambda t: bytes((t[0], t[1] - 1)) + t[2:])
    yield raw("a schema alone", lambda t: t[:2])
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
        ("the embedding to save", {"modules_to_save": ["embed_tokens"]}),
        ("the output layer to save", {"modules_to_save": ["lm_head"]}),
        ("all of it to save", {"modules_to_save": ["model"]}),
        ("a token's row", {"trainable_token_indices": [17]}), ("a rank by name", {"rank_pattern": {"q_proj": 64}}),
    ]  # fmt: skip
    for name, entries in others:

        def train(task: pb.Task, honest: Honest, entries=entries) -> None:
            header = replace(honest.header(), spec_json=with_settings(**entries)(honest))
            task.train.broadcast = seal(header, encode_delta(honest.initial, codec_for("fp32"))).data

        yield _case(f"describe: {name}", _described(with_settings(**entries)), "query")
        yield _case(f"train: {name}", train)
    for what, targets in (("the embedding", ["embed_tokens"]), ("the output layer", ["lm_head"]), ("all", ["model"])):
        whole = of_method("full", {"target_modules": targets})
        yield _case(f"describe: whole weights of {what}", _described(whole), "query")
    for key, value in (("init_seed", 7), ("labels", ["a", "b"]), ("init_rank", 4), ("method", "rslora")):

        def other(honest: Honest, key=key, value=value) -> str:
            return json.dumps({**honest.facts, key: value}, sort_keys=True, separators=(",", ":"))

        yield _case(f"describe: {key} is another", _described(other), "query")


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

            yield _case(f"{kind}, broadcast: {name}", change, kind)

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

    yield from said("a step from an unknown adapter", relative_to=b"a" * 32, result_digest=b"r" * 32)

    def numbers(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Case:
        def put(task: pb.Task, honest: Honest) -> None:
            frame = split_frame(honest.broadcast())
            header = epb.Header.FromString(bytes(frame.header))
            payload = change(np.frombuffer(bytes(frame.payload), "<f4").copy()).tobytes()
            header.payload_digest = payload_digest(header.codec, header.codec_parameters, payload)
            task.train.broadcast = join_frame(header.SerializeToString(deterministic=True), payload)

        return _case(f"train, broadcast: {name}", put)

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


def all_cases() -> list[Case]:
    """Every message of a hostile server to a client, in one list."""
    makers = (specs, other_methods, raw_specs, directories, settings, settings_texts, tasks, broadcasts, welcomes)
    return [case for maker in makers for case in maker()]


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
        ("ranks of clients of text", {"client-ranks": BOMB}), ("a method of none", {"method": "hostile"}),
        ("a method of PEFT's", {"method": "boft"}),
        ("4,096 virtual tokens", {"method": "prompt", "virtual-tokens": 4096}),
        ("a rule of none", {"rule": "hostile"}),
        ("a rule of a module", {"rule": TRAINER}), ("a rule of the library", {"rule": "os:system"}),
        ("a stated rule that trains nothing", {"rule": "stated:name=x,frozen=C"}),
        ("a stated rule with code", {"rule": "stated:name=x,algorithm=os.system"}),
        ("a stated rule of 100,000 sides", {"rule": "stated:name=x,frozen=" + "AB" * 50_000}),
        ("a method of a module", {"method": TRAINER}), ("bits of a module", {"bits": TRAINER}),
        ("bits of the library", {"bits": "os:system"}), ("a loss of none", {"loss": "hostile"}),
        ("a loss of a module", {"loss": TRAINER}), ("a loss of the library", {"loss": "os:system"}),
        ("a loss with an option of a module", {"loss": f"{TRAINER}:x=1"}), ("bits of none", {"bits": "hostile"}),
        ("bits of NaN", {"bits": "nan"}),
        ("a rate of 1e300", {"learning-rate": 1e300}), ("a rate of NaN", {"learning-rate": math.nan}),
        ("a rate below zero", {"learning-rate": -1.0}), ("gradients cut at 1e-12", {"max-grad-norm": 1e-12}),
        ("gradients cut at zero", {"max-grad-norm": 0.0}), ("all of it held out", {"held-out-fraction": 1.0}),
        ("decay of 1e300", {"weight-decay": 1e300}), ("a seed below zero", {"seed": -1}),
        ("a seed as text", {"seed": "x"}),
        ("an unknown key", {"hostile": 1}), ("a key of control characters", {"\x1b[2J": 1}),
        ("a device of text", {"device": BOMB}), ("threads below zero", {"threads": -1}),
        ("where to write", {"out": OUTSIDE}), ("where to publish", {"publish": "http://localhost:1"}),
        ("adapters to begin with", {"init-adapter": OUTSIDE}), ("data", {"data": OUTSIDE}),
        ("labels without end", {"labels": ",".join(map(str, range(200_000)))}),
    ]  # fmt: skip
    for name, entries in table:
        yield Case(f"welcome: {name}", Target.WELCOME, lambda h, e=entries: {**copy.deepcopy(dict(h.run)), **e})

"""Every named message of a hostile server to a client, in one list, including run configurations."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

from scoreboard.hostile_case import BOMB, OUTSIDE, TRAINER, Case, Target
from scoreboard.hostile_specs import directories, other_methods, raw_specs, specs
from scoreboard.hostile_tasks import broadcasts, settings, settings_texts, tasks

from plait.adapters import Json


def all_cases() -> list[Case]:
    makers = (
        specs,
        other_methods,
        raw_specs,
        directories,
        settings,
        settings_texts,
        tasks,
        broadcasts,
        welcomes,
    )
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
        ("a method of a module", {"method": TRAINER}), ("a wire of a module", {"wire": TRAINER}),
        ("a wire of the library", {"wire": "os:system"}), ("a loss of none", {"loss": "hostile"}),
        ("a loss of a module", {"loss": TRAINER}), ("a loss of the library", {"loss": "os:system"}),
        ("a loss with an option of a module", {"loss": f"{TRAINER}:x=1"}), ("a wire of none", {"wire": "hostile"}),
        ("a wire of NaN", {"wire": "nan"}),
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

"""The settings of a run: one flat table, read once at the edge from TOML and the command line.

The same keys serve as command-line options (``--local-steps 4``), TOML keys (``local-steps = 4``) and Flower run
configuration. Below the edge plain values are passed on, never this object. The file is long because each setting has
its default, bounds and help in one place.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from plait.choice import choice_text, split_choices
from plait.errors import ConfigError, did_you_mean
from plait.plugins import Kind
from plait.text import escaped

Scalar = bool | int | float | str

# Names that users know from other systems: FlowerTune, TRL/transformers, PEFT.
ALIASES: Mapping[str, str] = {
    "num-server-rounds": "rounds",
    "num-rounds": "rounds",
    "num-clients": "clients",
    "num-supernodes": "clients",
    "model-name": "base",
    "model-name-or-path": "base",
    "dataset-name": "data",
    "per-device-train-batch-size": "batch-size",
    "max-steps": "local-steps",
    "max-length": "seq-len",
    "max-seq-length": "seq-len",
    "lr": "learning-rate",
    "lora-r": "rank",
    "peft-lora-r": "rank",
    "r": "rank",
    "lora-alpha": "alpha",
    "peft-lora-alpha": "alpha",
    "lora-dropout": "dropout",
    "lr-scheduler-type": "lr-schedule",
    "output-dir": "out",
}

# Keys whose value has options of its own: a TOML file may write them as a table of a name and these options.
_CHOICES = frozenset({
    "rule", "server-optimizer", "loss", "objective", "wire", "partition", "trainer", "data", "callbacks", "report-to",
})  # fmt: skip
# Keys that may name several: a TOML file may write them as a list of names and tables.
_SEVERAL = frozenset({"callbacks", "report-to"})
# The largest values that a task can carry.
_MOST = 2**32 - 1
_MOST_EXAMPLES = 1 << 20
_MOST_TOKENS = 1 << 24
MOST_STEPS_RATIO = 4
"""Steps of a client in a round at most, as a multiple of `local_steps`, where they follow its speed."""
MOST_LABELS = 10_000
"""The most classes that a run can have."""
# Part of a module name. PEFT would read anything else as a regular expression.
_MODULE_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def _number_or(word: str) -> Callable[[object], object]:
    """For a setting that is a number or one word; the command line passes both as text."""

    def number(value: object) -> object:
        try:
            return float(value) if isinstance(value, str) and value != word else value
        except ValueError:
            raise ValueError(f"expected {word} or a number") from None

    return number


class RunConfig(BaseModel, frozen=True):
    """Everything that decides what a run computes; each field is an option of ``plait simulate``."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        allow_inf_nan=False,
    )

    data: Annotated[
        str,
        Field(
            description="file or folder (JSONL, JSON, CSV, TSV, Parquet, Arrow, text; also .gz, .zst), a data set of "
            "the hub (owner/name:config@revision), or a built-in: stdlib, chatterbot, bbc"
        ),
    ] = "stdlib"
    columns: Annotated[
        str,
        Field(
            description="columns that have other names, such as text=body,client=author; fields are text, prompt, "
            "completion, messages, label and client"
        ),
    ] = ""
    split: Annotated[
        str,
        Field(
            description="split to train on, or TRAIN,HELD_OUT, such as train[:1000],test; by default train, and "
            "validation or else test is held out"
        ),
    ] = ""
    base: Annotated[
        str, Field(description="Hugging Face directory or hub id, or a built-in: smollm2-135m, minilm-l6, tiny")
    ] = "smollm2-135m"
    revision: Annotated[str, Field(description="revision of a hub base (branch, tag or commit)")] = ""
    partition: Annotated[
        str,
        Field(
            description="natural:COLUMN, iid, dirichlet:ALPHA, pathological:N, shard:N, linear, square, exponential, "
            "cluster:ALPHA; the default depends on the data"
        ),
    ] = ""
    clients: Annotated[int, Field(ge=1, le=1_000_000, description="clients in the federation")] = 8
    clients_per_round: Annotated[int, Field(ge=0, description="clients sampled per round; 0 means all")] = 0
    quorum: Annotated[
        float, Field(gt=0, le=1, description="fraction of the wanted updates below which a round is retried")
    ] = 0.5
    devices: Annotated[
        str,
        Field(
            description="TOML file with the devices of a simulated fleet: the run then goes by a virtual clock, on "
            "which downloads, training and uploads take as long as there"
        ),
    ] = ""
    deadline_s: Annotated[
        float,
        Field(
            ge=0,
            description="seconds a round waits for updates; 0 means no limit while clients show progress",
        ),
    ] = 0.0
    over_selection: Annotated[
        float, Field(ge=0, le=10, description="extra clients to ask per round, as a fraction of those wanted")
    ] = 0.0
    round_attempts: Annotated[
        int, Field(ge=1, le=_MOST, description="attempts at a round that falls below its quorum")
    ] = 3
    norm_policy: Annotated[
        Literal["auto", "reject", "clip", "off"],
        Field(
            description="how to treat an update that is much larger than the others; auto rejects it, and is off with "
            "differential privacy, which clips updates itself"
        ),
    ] = "auto"
    norm_bound: Annotated[
        float,
        Field(gt=1, description="largest update norm allowed, as a multiple of the median of this and recent rounds"),
    ] = 10.0
    keep_updates: Annotated[
        bool, Field(description="keep all updates in RUN/spool, so that plait verify can recompute every round")
    ] = False
    dp: Annotated[
        Literal["off", "client", "record"],
        Field(
            description="differential privacy: record hides from everybody, the server too, what any one sequence of a "
            "client changed; client hides what any one client's data changed from everybody but the server, with "
            "secure-aggregation from the server too, and needs hundreds of clients to be useful (plait estimate says)"
        ),
    ] = "off"
    dp_epsilon: Annotated[
        float, Field(ge=0, le=1e6, description="epsilon of the whole run, never exceeded; sets the noise")
    ] = 0.0
    dp_noise_multiplier: Annotated[
        float,
        Field(ge=0, le=1e4, description="noise over clip norm in each round (of records: step), instead of an epsilon"),
    ] = 0.0
    dp_delta: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="delta of the whole run; 0 means 1e-5, or of clients 1 / (10 clients) if that is smaller",
        ),
    ] = 0.0
    dp_clip: Annotated[
        Annotated[float, Field(gt=0, le=1e6)] | Literal["adaptive"],
        BeforeValidator(_number_or("adaptive")),
        Field(
            description="norm that a client's update, or a record's gradient, is clipped to; adaptive follows a "
            "quantile of the updates, and scales all gradients to one norm"
        ),
    ] = "adaptive"
    dp_clip_quantile: Annotated[
        float, Field(gt=0, lt=1, description="quantile of the clients' norms that an adaptive clip norm follows")
    ] = 0.5
    dp_mechanism: Annotated[
        Literal["gaussian", "blt"],
        Field(
            description="noise of --dp client: gaussian is independent in every round; blt takes back a part of the "
            "noise of rounds before, and needs dp-min-separation"
        ),
    ] = "gaussian"
    dp_min_separation: Annotated[
        int,
        Field(
            ge=1,
            le=_MOST,
            description="rounds from one in which a client takes part to the next at the earliest; more than 1 lowers "
            "the noise of --dp client, and needs so many times the clients of a round",
        ),
    ] = 1
    secure_aggregation: Annotated[
        bool,
        Field(
            description="hide every client's update, losses and counts from the server, which learns their sums alone"
        ),
    ] = False
    rounds: Annotated[int, Field(ge=1, le=1_000_000, description="rounds of training")] = 5
    local_steps: Annotated[int, Field(ge=1, le=_MOST, description="optimizer steps per client and round")] = 4
    step_budget: Annotated[
        Literal["equal", "speed"],
        Field(
            description="steps of a client in a round: local-steps for all, or, by the speed that rounds before have "
            "measured, so many that all answer together: local-steps on average, 1 to 4 times as many each"
        ),
    ] = "equal"
    rounds_mode: Annotated[
        Literal["sync", "async"],
        Field(
            description="sync: a round waits for its cohort; async: clients train whenever they are free, and a round "
            "is a buffer of updates that is folded once it is full"
        ),
    ] = "sync"
    buffer: Annotated[
        int,
        Field(ge=0, description="with rounds-mode async, updates per round; 0 means half of the clients at work"),
    ] = 0
    max_staleness: Annotated[
        int,
        Field(
            ge=0,
            le=10_000,
            description="with rounds-mode async, rounds that may pass while a client trains before its update is "
            "refused; 0 means as many as pass for a client ten times slower than the others",
        ),
    ] = 0
    batch_size: Annotated[int, Field(ge=1, le=_MOST_EXAMPLES, description="sequences per forward pass")] = 4
    gradient_accumulation_steps: Annotated[
        int, Field(ge=1, le=_MOST_EXAMPLES, description="forward passes per optimizer step")
    ] = 1
    seq_len: Annotated[int, Field(ge=8, le=_MOST_TOKENS, description="tokens per training sequence")] = 128
    learning_rate: Annotated[
        float,
        Field(
            ge=0,
            le=1e3,
            description="AdamW's peak learning rate; 0 means that each client finds its own in its first step",
        ),
    ] = 0.0
    lr_schedule: Annotated[
        Literal["constant", "linear", "cosine"], Field(description="learning rate schedule over the whole run")
    ] = "constant"
    warmup_steps: Annotated[
        int, Field(ge=0, le=_MOST, description="steps over which the learning rate rises from 0")
    ] = 0
    weight_decay: Annotated[float, Field(ge=0, le=1e3, description="AdamW's decoupled weight decay")] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0, description="norm that gradients are clipped to")] = 1.0
    method: Annotated[
        str,
        Field(description="adapter method: lora, dora, qlora, vera, ia3, prompt, full …; plait methods lists all"),
    ] = "lora"
    rank: Annotated[int, Field(ge=1, le=4096, description="rank of the low-rank factors")] = 8
    alpha: Annotated[float, Field(gt=0, description="sets the scaling factor of B A, alpha / rank")] = 16.0
    client_ranks: Annotated[
        str,
        Field(
            description="ranks of the clients, such as 2,4,8: each client trains the largest that it can; simulated "
            "clients take them in turn; by default all train at `rank`"
        ),
    ] = ""
    rank_pattern: Annotated[str, Field(description="ranks of individual modules, such as q_proj=4,down_proj=16")] = ""
    bias: Annotated[
        Literal["none", "all", "lora_only"], Field(description="which biases of the base LoRA also trains")
    ] = "none"
    virtual_tokens: Annotated[int, Field(ge=1, le=4096, description="length of a learned prompt or prefix")] = 20
    dropout: Annotated[float, Field(ge=0, lt=1, description="dropout before the adapter")] = 0.0
    target_modules: Annotated[str, Field(description="all-linear, or names separated by commas: q_proj,v_proj")] = (
        "all-linear"
    )
    init_adapter: Annotated[
        str,
        Field(
            description="adapter to start from, a run or a PEFT directory: DIR, or DIR=WEIGHT,DIR=WEIGHT for a "
            "weighted sum; by default the method's initial values"
        ),
    ] = ""
    init_mode: Annotated[
        Literal["continue", "freeze"],
        Field(description="continue training the initial adapter, or freeze it beneath a new one"),
    ] = "continue"
    rule: Annotated[
        str,
        Field(
            description="aggregation rule: fedavg, product_mean, flora, fedsa, ffa, krum, "
            "trimmed_mean:share=0.1 …; plait rules lists all"
        ),
    ] = "fedavg"
    weighting: Annotated[
        Literal["examples", "equal"],
        Field(description="weight of a client: equal for all, or proportional to its training examples (as in FedAvg)"),
    ] = "equal"
    server_optimizer: Annotated[
        str,
        Field(
            description="optimizer applied to a round's update: none, sgd, nesterov, fedexp, fedadam …; auto is sgd "
            "if a server learning rate or momentum is set, else none"
        ),
    ] = "auto"
    server_learning_rate: Annotated[
        float, Field(gt=0, description="multiplier that the server optimizer applies to a round's update")
    ] = 1.0
    server_momentum: Annotated[
        float, Field(ge=0, lt=1, description="momentum of the server optimizer; beta1 of FedAdam")
    ] = 0.0
    proximal: Annotated[
        float, Field(ge=0, description="FedProx's mu: pulls local training towards the round's initial adapter")
    ] = 0.0
    feddyn: Annotated[
        float, Field(ge=0, description="FedDyn's alpha: a regulariser that brings clients' optima to the global one")
    ] = 0.0
    objective: Annotated[
        str,
        Field(
            description="what clients learn: sft from texts and chats; dpo, ipo, orpo, simpo from preference pairs, "
            "kto also from single verdicts; with options such as dpo:beta=0.2"
        ),
    ] = "sft"
    loss: Annotated[
        str,
        Field(
            description="with sft what clients minimise: cross_entropy, distillation (from the received adapter), "
            "orthogonality, or MODULE:FUNCTION of your own"
        ),
    ] = "cross_entropy"
    moments: Annotated[
        Literal["auto", "carry", "fresh"],
        Field(
            description="carry AdamW's moments over between a client's rounds, or start fresh; auto carries them if "
            "the rule keeps the factors aligned and every client takes part in every round"
        ),
    ] = "auto"
    own_share: Annotated[
        Annotated[float, Field(ge=0, lt=1), BeforeValidator(_number_or("auto"))] | Literal["auto"],
        Field(
            description="weight of a client's own direction in its personalized adapter, which it keeps beside the "
            "shared one; 0 for none; auto is 0.35 for linear rules if every client takes part in every round, else 0"
        ),
    ] = "auto"
    scaffold: Annotated[bool, Field(description="SCAFFOLD: correct each local step for the client's drift")] = False
    wire: Annotated[
        str,
        Field(
            description="encoding on the wire: fp32, bf16, or 8 to 0.1 bits per parameter; fewer than 1 are outside "
            "the range in which a run keeps its gain: in five rounds nine tenths of it at 0.5, four fifths at 0.25"
        ),
    ] = "1"
    held_out_fraction: Annotated[
        float, Field(gt=0, lt=1, description="fraction of each client's data held out for evaluation")
    ] = 0.1
    max_held_out_sequences: Annotated[
        int,
        Field(
            ge=0,
            le=_MOST,
            description="most held-out sequences per client, the same ones each time; 0 limits evaluation to about a "
            "third of the training time, with at least 64 sequences over all clients",
        ),
    ] = 0
    eval_every: Annotated[
        int, Field(ge=1, le=_MOST, description="rounds between evaluations; the last round is always evaluated")
    ] = 1
    eval_clients: Annotated[
        int, Field(ge=0, description="clients that evaluate, the same ones each time; 0 means all")
    ] = 0
    take_back: Annotated[
        bool,
        Field(
            description="undo half of a step after which the held-out loss is higher, and shorten the next steps; "
            "after the last round, publish the adapter from before it"
        ),
    ] = True
    patience: Annotated[
        int,
        Field(ge=0, le=_MOST, description="end after this many evaluations without a lower loss; 0 runs all rounds"),
    ] = 0
    keep: Annotated[
        Literal["best", "last"],
        Field(
            description="publish the adapter of the evaluation with the lowest loss, or of the last round (but see "
            "take-back)"
        ),
    ] = "last"
    reference: Annotated[
        str, Field(description="also train baselines: central (pooled data), local (each client alone), or both")
    ] = ""
    labels: Annotated[str, Field(description="class names separated by commas; by default read from the data")] = ""
    trainer: Annotated[
        str, Field(description="MODULE:FUNCTION that builds your own transformers Trainer as the local trainer")
    ] = ""
    device: Annotated[str, Field(description="device to compute on")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], Field(description="compute type of the frozen base")
    ] = "auto"
    threads: Annotated[int, Field(ge=0, description="CPU threads; 0 means torch's default")] = 0
    side_by_side: Annotated[
        int,
        Field(
            ge=1,
            le=4096,
            description="simulated clients that train together in one batch, for bases of the Llama family: faster "
            "for small batches, but needs more memory; another number, or a resumed round, changes the adapter by "
            "rounding only",
        ),
    ] = 1
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="seed of all randomness")] = 0
    out: Annotated[str, Field(description="run directory; by default runs/<time>")] = ""
    report_to: Annotated[
        str,
        Field(
            description="trackers that follow the run, separated by commas: tensorboard, wandb, mlflow, trackio, or "
            "MODULE:CLASS of your own"
        ),
    ] = "none"
    callbacks: Annotated[
        str,
        Field(
            description="functions of your own that hear every event of the run and may end it, separated by commas: "
            "MODULE:NAME, with its options MODULE:NAME:OPTION=VALUE"
        ),
    ] = ""
    publish: Annotated[
        str,
        Field(
            description="also publish each round's adapter: to a directory, to a running vLLM (address; key in "
            "VLLM_API_KEY), or to both, separated by a comma"
        ),
    ] = ""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.clients_per_round > self.clients:
            raise ValueError(
                f"clients-per-round is {self.clients_per_round}, expected at most clients = {self.clients}"
            )
        examples = self.batch_size * self.gradient_accumulation_steps
        if examples > _MOST_EXAMPLES:
            raise ValueError(
                f"batch-size times gradient-accumulation-steps is {examples}, expected at most {_MOST_EXAMPLES}"
            )
        for kind in self.references:
            if kind not in ("central", "local"):
                raise ValueError(f"reference is '{kind}', expected central, local or central,local")
        self._check_ranks()
        self._check_beginning()
        self._check_privacy()
        self._check_secure_aggregation()
        if self.scaffold and self.server_optimizer not in ("auto", "none"):
            raise ValueError(
                f"scaffold is true and server-optimizer is '{self.server_optimizer}', expected 'none': "
                "clients measure their drift from the plain mean"
            )
        if self.feddyn and self.server_optimizer.partition(":")[0] not in ("auto", "feddyn"):
            raise ValueError(
                f"feddyn is {self.feddyn} and server-optimizer is '{self.server_optimizer}', expected 'feddyn': its "
                "server adds what the clients' regularisers hold back"
            )
        for name, value in (("scaffold", self.scaffold), ("own-share", self.given_own_share)):
            if self.feddyn and value:
                raise ValueError(f"feddyn is {self.feddyn} and {name} is {str(value).lower()}, expected one of them")
        if self.trainer and self.loss != "cross_entropy":
            raise ValueError(
                f"trainer is given and loss is '{self.loss}', expected cross_entropy: a trainer has a loss of its own"
            )
        self._check_objective()
        if self.scaffold and self.given_own_share:
            raise ValueError(f"own-share is {self.own_share} and scaffold is true, expected one of them")
        if self.patience and self.given_own_share:
            raise ValueError(
                f"own-share is {self.own_share} and patience is {self.patience}, expected one of them: clients make "
                "their own adapters in the last round, and with patience nobody knows which that is"
            )
        if self.side_by_side > 1 and self.over_selection:
            raise ValueError(
                f"side-by-side is {self.side_by_side} and over-selection is {self.over_selection}, expected one of "
                "them: clients that train together cannot be released one by one"
            )
        self._check_devices()
        self._check_asynchronous()
        if len(self.label_names) > MOST_LABELS:
            raise ValueError(f"labels has {len(self.label_names)} names, expected at most {MOST_LABELS}")
        if self.labels and not 1 < len(set(self.label_names)) == len(self.label_names):
            raise ValueError(f"labels are '{self.labels}', expected at least two different names")
        return self

    def _check_devices(self) -> None:
        if self.step_budget == "speed":
            why = "it counts on equal steps of all clients"
            self._check_alone(
                "step-budget is 'speed'",
                ("scaffold", self.scaffold, "false", why),
                ("feddyn", self.feddyn, "0", why),
                ("dp", self.dp != "off", "off", why),
                ("side-by-side", self.side_by_side > 1, "1", why),
                ("secure-aggregation", self.secure_aggregation, "false", why),
            )
        if self.devices:
            self._check_alone(
                f"devices is '{self.devices}'",
                ("side-by-side", self.side_by_side > 1, "1", "devices of different speeds end at different times"),
            )

    def _check_asynchronous(self) -> None:
        if self.rounds_mode == "sync":
            beside = "rounds-mode is 'sync'"
            why = "a round is its cohort"
            self._check_alone(
                beside, ("buffer", self.buffer, "0", why), ("max-staleness", self.max_staleness, "0", why)
            )
            return
        if self.buffer > self.cohort_size:
            raise ValueError(
                f"buffer is {self.buffer} and {self.cohort_size} clients are at work at once, expected at most as "
                "many: nobody has two updates in a buffer"
            )
        if self.buffer == 1 < self.cohort_size:
            raise ValueError("buffer is 1, expected at least 2: how much an update counts is relative to others in it")
        waits = "rounds wait for nobody"
        equal = "it counts on equal parts of all clients in a round"
        self._check_alone(
            "rounds-mode is 'async'",
            ("step-budget", self.step_budget != "equal", "equal", "whoever is faster comes more often instead"),
            ("over-selection", self.over_selection, "0", waits),
            ("deadline-s", self.deadline_s, "0", waits),
            ("scaffold", self.scaffold, "false", equal),
            ("feddyn", self.feddyn, "0", equal),
            ("own-share", self.given_own_share, "0", equal),
            ("dp", self.dp != "off", "off", "a client's part in a run is charged by synchronous rounds"),
            ("secure-aggregation", self.secure_aggregation, "false", "a masked sum needs all its clients at once"),
            ("patience", self.patience, "0", "training goes on while a round is evaluated"),
            ("keep", self.keep != "last", "last", "training goes on while a round is evaluated"),
        )

    def _check_objective(self) -> None:
        if not self.learns_preferences:
            return
        self._check_alone(
            f"objective is '{self.objective}'",
            ("loss", self.loss != "cross_entropy", "cross_entropy", "an objective of preferences is itself a loss"),
            ("trainer", self.trainer, "none", "a trainer has a loss of its own"),
            ("labels", self.labels, "none", "preferences are about what a language model writes"),
        )

    def _check_ranks(self) -> None:
        for text in _parts(self.rank_pattern):
            name, equals, rank = text.partition("=")
            if not (equals and _MODULE_NAME.fullmatch(name) and rank.isascii() and rank.isdigit() and int(rank) >= 1):
                raise ValueError(f"rank-pattern has '{text}', expected MODULE=RANK such as q_proj=4")
        if self.rank_pattern and self.client_ranks:
            raise ValueError("rank-pattern and client-ranks are both given, expected one of them")
        for text in self._rank_texts:
            if not (text.isascii() and text.isdigit() and 1 <= int(text) <= self.rank):
                raise ValueError(f"client-ranks has '{text}', expected whole numbers from 1 to rank = {self.rank}")

    def _check_beginning(self) -> None:
        if self.init_mode != "continue" and not self.init_adapter:
            raise ValueError(f"init-mode is '{self.init_mode}', expected init-adapter to be given too")
        for path, weight in self.init_adapters:
            if not weight:
                raise ValueError(f"init-adapter gives '{path}' weight 0, expected another number")

    def _check_privacy(self) -> None:
        given = {"dp-epsilon": self.dp_epsilon, "dp-noise-multiplier": self.dp_noise_multiplier}
        noise = [f"{key} is {value:g}" for key, value in given.items() if value]
        if self.dp != "client":
            self._check_alone(
                f"dp is '{self.dp}'",
                ("dp-mechanism", self.dp_mechanism != "gaussian", "gaussian", "only noise of clients is correlated"),
                ("dp-min-separation", self.dp_min_separation > 1, "1", "it is the noise of clients that it lowers"),
            )
        if self.dp == "off":
            if noise or self.dp_clip != "adaptive":
                what = noise[0] if noise else f"dp-clip is {self.dp_clip}"
                raise ValueError(
                    f"{what} and dp is 'off', expected dp to be 'client' or 'record': nothing is private without it"
                )
            return
        if len(noise) != 1:
            both = " and ".join(noise) or f"neither dp-epsilon nor dp-noise-multiplier is given and dp is '{self.dp}'"
            raise ValueError(f"{both}, expected one of the two: each follows from the other")
        if self.dp == "client" and self.dp_delta * self.clients >= 1:
            raise ValueError(
                f"dp-delta is {self.dp_delta:g} and clients is {self.clients}, expected less than 1 / clients = "
                f"{1 / self.clients:g}: with more, showing one client in full would be within the guarantee"
            )
        self._check_alone(
            f"dp is '{self.dp}'",
            ("weighting", self.weighting != "equal", "equal", "how many examples a client has is not to be said"),
            ("patience", self.patience, "0", "losses of clients stay unknown"),
            ("keep", self.keep != "last", "last", "losses of clients stay unknown"),
            ("reference", self.reference, "none", "baselines show losses that no noise covers"),
            ("devices", self.devices, "none", "the times of a virtual clock follow from the clients' data"),
        )
        if self.dp == "client":
            self._check_alone(
                "dp is 'client'",
                ("norm-policy", self.norm_policy not in ("auto", "off"), "auto or off",
                 "its bound is a median of all norms, so one client changes which others count"),
                ("client-ranks", not self.one_rank, "one rank", "how far a client moves the sum depends on its rank"),
            )  # fmt: skip
            self._check_separation()
            return
        unseen = "noise needs the gradient of each record by itself"
        self._check_alone(
            "dp is 'record'",
            ("trainer", self.trainer, "none", unseen),
            ("objective", self.learns_preferences, "sft", unseen),
            ("loss", self.loss != "cross_entropy", "cross_entropy", unseen),
            ("max-grad-norm", self.max_grad_norm != 1.0, "1.0", "dp-clip bounds the gradient of each record instead"),
            ("side-by-side", self.side_by_side > 1, "1", "a batch of its own has as many records as are drawn"),
        )

    def _check_separation(self) -> None:
        separation, most = self.dp_min_separation, self.clients // self.cohort_size
        if self.dp_mechanism == "blt" and most <= 1:
            raise ValueError(
                f"dp-mechanism is 'blt', clients is {self.clients} and clients-per-round is {self.cohort_size}, so all "
                "clients join every round and the gain is 1.00: expected gaussian, or fewer clients per round"
            )
        if separation == 1:
            return
        if separation > most:
            raise ValueError(
                f"dp-min-separation is {separation}, clients is {self.clients} and clients-per-round is "
                f"{self.cohort_size}, expected at most clients / clients-per-round = {most}: with more, no round would "
                "find enough clients"
            )
        if self.dp_clip == "adaptive":
            raise ValueError(
                f"dp-clip is 'adaptive' and dp-min-separation is {separation}, expected a number: all rounds are one "
                "mechanism, of one clip norm"
            )

    def _check_secure_aggregation(self) -> None:
        if not self.secure_aggregation:
            return
        least = 3
        for name, count in (
            ("clients", self.clients),
            ("clients-per-round", self.clients_per_round or least),
            ("eval-clients", self.eval_clients or least),
        ):
            if count < least:
                raise ValueError(
                    f"{name} is {count} and secure-aggregation is true, expected at least {least}: in a sum of two "
                    "each client knows the other's part"
                )
        if self.dp == "record":
            self._check_alone(
                "dp is 'record' under secure-aggregation",
                ("dp-noise-multiplier", self.dp_noise_multiplier, "dp-epsilon", "no client says what it has spent"),
            )
        self._check_alone(
            "secure-aggregation is true",
            ("dp-min-separation", self.dp_min_separation > 1, "1", "clients under masks check no separation"),
            ("norm-policy", self.norm_policy not in ("auto", "off"), "auto or off", "the server sees no update's norm"),
            ("weighting", self.weighting != "equal", "equal", "the server sees no client's number of examples"),
            ("client-ranks", not self.one_rank, "one rank", "only updates of one shape have a sum"),
            ("over-selection", self.over_selection, "0", "whoever has sent its update is in the sum"),
            ("patience", self.patience, "0", "losses are compared client by client, and none is known"),
            ("keep", self.keep != "last", "last", "losses are compared client by client, and none is known"),
            ("reference", self.reference, "none", "baselines show the losses of single clients"),
            ("devices", self.devices, "none", "a virtual clock knows no stages of a masked sum"),
        )  # fmt: skip

    def _check_alone(self, beside: str, *clashes: tuple[str, object, str, str]) -> None:
        """Refuse settings that `beside` does not go with: name, whether it is set, what is expected, and why."""
        for clash, is_set, expected, why in clashes:
            if is_set:
                value = getattr(self, clash.replace("-", "_"))
                shown = str(value).lower() if isinstance(value, bool) else repr(value)
                raise ValueError(f"{clash} is {shown} and {beside}, expected {expected}: {why}")

    @property
    def init_adapters(self) -> tuple[tuple[Path, float], ...]:
        """The adapters to begin with and their weights."""
        return tuple(_weighted(part) for part in _parts(self.init_adapter))

    @property
    def _rank_texts(self) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.client_ranks.split(",") if part.strip())

    @property
    def module_ranks(self) -> dict[str, int]:
        """Ranks of the modules for which one is set."""
        pairs = (part.partition("=") for part in _parts(self.rank_pattern))
        return {name: int(rank) for name, _, rank in pairs}

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks of the clients, in the order given; only `rank` if none are given."""
        return tuple(int(text) for text in self._rank_texts) or (self.rank,)

    @property
    def one_rank(self) -> bool:
        """Whether all clients have the server's own rank."""
        return set(self.ranks) == {self.rank}

    @property
    def references(self) -> tuple[str, ...]:
        """The baselines asked for, in order."""
        return tuple(dict.fromkeys(part.strip() for part in self.reference.split(",") if part.strip()))

    @property
    def label_names(self) -> tuple[str, ...]:
        """The classes in index order; empty for a language model."""
        return tuple(part.strip() for part in self.labels.split(",") if part.strip())

    @property
    def given_own_share(self) -> float:
        """`own_share` if it is a number; 0 if it depends on rule and cohort."""
        return 0.0 if self.own_share == "auto" else self.own_share

    @property
    def learns_preferences(self) -> bool:
        """Whether the objective is one of preferences, not of text."""
        return self.objective.partition(":")[0].strip() != "sft"

    @property
    def sequences_an_example(self) -> int:
        """The most sequences of one example: a preference has two."""
        return 2 if self.learns_preferences else 1

    @property
    def cohort_size(self) -> int:
        """Clients that train in one round."""
        return self.clients_per_round or self.clients

    @property
    def quorum_updates(self) -> int:
        """The fewest updates of a round."""
        return math.ceil(self.quorum * (self.buffer or self.cohort_size))

    @property
    def most_steps(self) -> int:
        """Steps that one client may be asked for in one round."""
        return self.local_steps * (MOST_STEPS_RATIO if self.step_budget == "speed" else 1)

    @property
    def parts(self) -> tuple[tuple[Kind, str], ...]:
        """The settings that may name a user's own part, by its kind, with their options."""
        return (
            (Kind.RULE, self.rule),
            (Kind.SERVER_OPTIMIZER, self.server_optimizer),
            (Kind.CODEC, self.wire),
            (Kind.METHOD, self.method),
            (Kind.TRAINER, self.trainer),
            (Kind.LOSS, self.loss),
            (Kind.PARTITION, self.partition),
            # A path, a data set of the hub and an object in memory are none.
            (Kind.DATASET, "" if "/" in self.data or self.data.startswith("memory:") else self.data),
            *((Kind.CALLBACK, text) for text in split_choices(self.callbacks)),
            *((Kind.TRACKER, text) for text in split_choices(self.report_to)),
        )

    @property
    def plugins(self) -> tuple[str, ...]:
        """What `plait.plugins.admit` takes of the settings, where they are this operator's own."""
        return tuple(text for _, text in self.parts)

    def with_out(self) -> Self:
        """The same settings, with the run directory named after the time if none is given."""
        return self if self.out else self.model_copy(update={"out": f"runs/{datetime.now():%Y%m%d-%H%M%S}"})

    def to_table(self) -> dict[str, Scalar]:
        """The settings under the keys that users write."""
        return cast("dict[str, Scalar]", self.model_dump(by_alias=True))


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _weighted(text: str) -> tuple[Path, float]:
    path, _, weight = text.rpartition("=")
    try:
        number = float(weight) if path else math.nan
    except ValueError:
        number = math.nan
    # A directory may have an equals sign in its name.
    return (Path(path).expanduser(), number) if math.isfinite(number) else (Path(text).expanduser(), 1.0)


def known_keys() -> tuple[str, ...]:
    """All keys, as users write them."""
    return tuple(name.replace("_", "-") for name in RunConfig.model_fields)


def key_named(given: str, *, where: str, beside: tuple[str, ...] = ()) -> str:
    """The key of a setting as plait writes it, from one that may use ``_``, or the name that other systems use.

    Args:
        given: the key.
        where: it stands, for the message.
        beside: what else may stand there, for the message.

    Raises:
        ConfigError: there is no such setting; the nearest one is named.
    """
    known = known_keys()
    key = given.replace("_", "-").lower()
    key = ALIASES.get(key, key)
    if key not in known:
        known = (*beside, *known)
        raise _refusal(
            f"{where}: unknown key '{given}'{did_you_mean(key, known) or ', expected one of: ' + ', '.join(known)}"
        )
    return key


def config_from_table(table: Mapping[str, object], *, where: str = "configuration") -> RunConfig:
    """Check a table of settings; keys may use ``-`` or ``_``, or the names that other systems use.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a value of the wrong type or out of bounds, or two
            keys that clash.
    """
    settings: dict[str, object] = {}
    names: dict[str, str] = {}
    for given, value in _nested(table).items():
        key = key_named(given, where=where)
        if key in settings:
            raise _refusal(f"{where}: '{names[key]}' and '{given}' both give {key}, expected one of them")
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            raise _refusal(f"{where}: {key} is {value!a}, expected Unicode text")
        settings[key], names[key] = _choice(key, value, where), given
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if not key:
            raise _refusal(f"{where}: {message}") from error
        hint = ""
        if first["type"] == "literal_error" and isinstance(first["input"], str):
            field = next(field for name, field in RunConfig.model_fields.items() if name.replace("_", "-") == key)
            hint = did_you_mean(first["input"], map(str, get_args(field.annotation)))
        raise _refusal(
            f"{where}: {key} is {first['input']!r}, {message.replace('input should be', 'expected')}{hint}"
        ) from error


def _nested(table: Mapping[str, object]) -> dict[str, object]:
    """The table with what Flower flattened nested again: ``rule.share = 0.1`` becomes ``[rule] share = 0.1``."""
    nested: dict[str, object] = {}
    for given, value in table.items():
        key, dot, option = given.partition(".")
        if not (dot and key.replace("_", "-").lower() in _CHOICES):
            nested[given] = value
        elif isinstance(options := nested.setdefault(key, {}), dict):
            options[option] = value
        else:
            raise _refusal(f"'{key}' and '{given}' are both given, expected one of them")
    return nested


def _choice(key: str, value: object, where: str) -> object:
    """A table of a name and options, or a list of such, as one text; any other value as it is."""
    if key in _SEVERAL and isinstance(value, list):
        listed = [_choice(key, each, where) for each in cast("list[object]", value)]
        return ",".join(cast("list[str]", listed)) if all(isinstance(each, str) for each in listed) else value
    if key not in _CHOICES or not isinstance(value, dict):
        return value
    try:
        return choice_text(cast("dict[str, object]", value))
    except ConfigError as error:
        raise _refusal(f"{where}: {key}: {error}") from error


def _refusal(text: str) -> ConfigError:
    """An error of one line, whatever keys and values it quotes."""
    return ConfigError(escaped(text))


def read_config_table(path: Path) -> dict[str, object]:
    """Read a TOML file of settings.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML.
    """
    try:
        with path.open("rb") as file:
            return cast("dict[str, object]", tomllib.load(file))
    except OSError as error:
        raise ConfigError(f"cannot read '{path}': {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is not TOML: {error}") from error


def to_toml(config: RunConfig) -> str:
    """The settings as TOML, one key per line, for use with ``--config``."""
    lines: list[str] = []
    for key, value in config.to_table().items():
        if isinstance(value, bool):
            text = "true" if value else "false"
        elif isinstance(value, str):
            text = _toml_string(value)
        else:
            text = repr(value)
        lines.append(f"{key} = {text}\n")
    return "".join(lines)


def _toml_string(text: str) -> str:
    quoted = "".join(
        {"\\": "\\\\", '"': '\\"'}.get(char) or (char if char.isprintable() else f"\\U{ord(char):08X}") for char in text
    )
    return f'"{quoted}"'

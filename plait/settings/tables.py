"""The settings of a run, by table."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, field_validator

from plait.errors import ConfigError, did_you_mean
from plait.settings.choice import parse_choice, with_options
from plait.settings.table import MOST, MOST_EPOCHS, SettingsTable, number_or, parts_of
from plait.settings.traits import Reasons, Stated, Trait
from plait.system.files import at_home

Schedule: TypeAlias = Literal["constant", "linear", "cosine", "slope"]
"""The shapes of the learning rate, which `training.learner.schedule_factor` computes."""

PERSONALIZATION_NEEDS: Reasons = {
    Trait.WAITS: "it counts on equal parts of all clients in a round",
    Trait.LINEAR: "it adds what the clients' own moves do not share",
    Trait.SAME_FACTORS: "a client's own direction goes on from the round before",
    Trait.ALL_SHARED: "a client keeps a whole adapter of its own",
}
"""What personalized adapters need of a run."""


@dataclass(frozen=True)
class FedProx:
    """A pull towards the round's initial adapter (Li et al., arXiv 1812.06127, eq. 2)."""

    mu: Annotated[float, Field(gt=0, le=1e6, description="strength of the pull")] = 0.01


def _proximal(correction: str) -> float:
    """The mu of a correction; 0 without."""
    name, options = parse_choice(correction)
    if name == "none" and not options:
        return 0.0
    if name != "fedprox":
        hint = did_you_mean(name, ("none", "fedprox"))
        raise ConfigError(f"correction is '{name}', expected one of none, fedprox{hint}")
    return with_options(FedProx(), options, what=f"correction '{name}'").mu


class Learning(SettingsTable, table="learning", heading="What clients learn"):
    """What clients learn."""

    objective: str = "sft"
    """what clients learn: sft learns texts and chats; dpo preference pairs; MODULE:CLASS is your own;
    grpo:reward=MODULE:FUNCTION,group-size=8 learns from your own reward; with options such as dpo:beta=0.2"""
    loss: str = "cross_entropy"
    """with sft what clients minimise: cross_entropy, or MODULE:FUNCTION of your own"""
    correction: str = "none"
    """what holds clients' local steps together: none, or fedprox:mu=0.01, a pull towards the round's adapter"""
    trainer: str = ""
    """MODULE:FUNCTION that builds your own transformers Trainer as the local trainer"""
    personalize: Annotated[float, Field(ge=0, lt=1), BeforeValidator(number_or("auto"))] | Literal["auto"] = "auto"
    """weight of a client's own direction in its personalized adapter, which it keeps beside the shared one; 0 for none;
    auto is 0.35 for linear rules if every client takes part in every round, else 0"""

    @field_validator("correction")
    @classmethod
    def _check_correction(cls, given: str) -> str:
        try:
            _proximal(given)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return given

    @property
    def proximal(self) -> float:
        """The strength of FedProx's pull; 0 for none."""
        return _proximal(self.correction)

    @property
    def given_personalize(self) -> float:
        """`personalize` if it is a number; 0 if it depends on rule and cohort."""
        return 0.0 if self.personalize == "auto" else self.personalize

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        replaces = {Trait.OWN_LOSS: "which it replaces"}
        if self.trainer:
            needs = {**replaces, Trait.LOCAL_STEPS: "a trainer draws sequences itself"}
            removes = {
                Trait.OWN_LOSS: "a trainer has a loss of its own",
                Trait.SLOPES: "a trainer's steps measure none",
            }
            yield self.states("trainer", needs=needs, removes=removes)
        if self.is_given("loss"):
            yield self.states("loss", needs=replaces, removes={Trait.OWN_LOSS: "loss names another"})
        if self.given_personalize:
            yield self.states("personalize", needs=PERSONALIZATION_NEEDS, instead="0")


class AdapterSettings(SettingsTable, table="adapter", heading="Adapter"):
    """The adapter's form."""

    alpha: Annotated[float, Field(gt=0)] = 16.0
    """sets the scaling factor of B A, alpha / rank"""
    client_ranks: str = ""
    """ranks of the clients, such as 2,4,8: each client trains the largest that it can; simulated clients take them in
    turn; by default all train at `rank`"""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """dropout before the adapter"""
    target_modules: str = "all-linear"
    """all-linear, or names separated by commas: q_proj,v_proj"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.dropout:
            yield self.states("dropout", removes={Trait.SAMPLES: "dropout takes parts of it away while it learns"})


class Stacking(SettingsTable, table="adapter", heading="Where the adapter begins", optional=True):
    """Where the adapter begins."""

    init_adapter: str = ""
    """adapter to start from, a run or a PEFT directory: DIR, or DIR=WEIGHT,DIR=WEIGHT for a weighted sum; by default
    the method's initial values"""

    @field_validator("init_adapter")
    @classmethod
    def _check_weights(cls, given: str) -> str:
        for path, weight in map(_weighted, parts_of(given)):
            if not weight:
                raise ValueError(f"expected another weight of '{path}' than 0")
        return given

    @property
    def init_adapters(self) -> tuple[tuple[Path, float], ...]:
        """The adapters to begin with and their weights."""
        return tuple(map(_weighted, parts_of(self.init_adapter)))


def _weighted(text: str) -> tuple[Path, float]:
    path, _, weight = text.rpartition("=")
    try:
        number = float(weight) if path else math.nan
    except ValueError:
        number = math.nan
    # A directory may have an equals sign in its name.
    return (at_home(path), number) if math.isfinite(number) else (at_home(text), 1.0)


class OptimizerSettings(SettingsTable, table="optimizer", heading="Clients' optimizer"):
    """AdamW at the clients."""

    learning_rate: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    """AdamW's peak learning rate (0 finds it); each client then finds its own in its first step"""
    lr_schedule: Literal["auto", Schedule] = "auto"
    """learning rate schedule; linear and cosine fall to 0 at the end of the run; slope lets a client's rate follow the
    slope of its loss along its last step; auto is slope where no rate is given (linear with classes and 20 steps or
    more), but constant with dp, a trainer, a reward or a rule that keeps the nearest updates"""
    weight_decay: Annotated[float, Field(ge=0, le=1e3)] = 0.0
    """AdamW's decoupled weight decay"""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """norm that gradients are clipped to"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.lr_schedule == "slope":
            yield self.states("lr_schedule", needs={Trait.SLOPES: "the rate follows it"})
        if self.is_given("max_grad_norm"):
            yield self.states("max_grad_norm", needs={Trait.WHOLE_GRADIENT: ""})


class Passes(SettingsTable, table="optimizer", heading="Epochs and packing", optional=True):
    """How a client goes through its data."""

    within: ClassVar = {"lr_schedule_over": ("lr_schedule", ("linear", "cosine"))}

    epochs: Annotated[float, Field(ge=0, le=MOST_EPOCHS)] = 0.0
    """passes of each client over its training data in the whole run, instead of local-steps; every sequence is trained
    on once a pass, and an equal part of them in each round, which a client leaves out that removes no part in it; 0
    counts local-steps"""
    lr_schedule_over: Literal["run", "round"] = "run"
    """whether a linear or cosine schedule goes over the run, or over each round anew"""
    packing: bool = True
    """join texts and cut them into sequences of seq-len tokens; otherwise each text is a sequence of its own, cut at
    seq-len, as chats, prompts and labelled texts always are"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.epochs:
            removes = {
                Trait.LOCAL_STEPS: "epochs count sequences",
                Trait.EQUAL_STEPS: "with epochs a client with more data takes more",
            }
            needs = {Trait.WAITS: "each round has its part of a client's data"}
            yield self.states("epochs", needs=needs, removes=removes, instead="0")


class Cohort(SettingsTable, table="cohort", heading="Who takes part in a round"):
    """Who takes part in a round, and how long it waits."""

    clients_per_round: Annotated[int, Field(ge=0)] = 0
    """clients sampled per round; 0 means all"""
    quorum: Annotated[float, Field(gt=0, le=1)] = 0.5
    """fraction of the wanted updates below which a round is retried; with half or fewer a round also waits for clients
    that were lost, at most deadline-s"""
    deadline_s: Annotated[float, Field(ge=0)] = 0.0
    """seconds a round waits for updates; 0 means no limit while clients show progress"""

    def check_clients(self, clients: int, cohort: int) -> None:
        """Refuse more clients at once than there are."""
        del cohort
        if self.clients_per_round > clients:
            raise ValueError(f"clients-per-round is {self.clients_per_round}, expected at most clients = {clients}")

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.deadline_s:
            yield self.states("deadline_s", needs={Trait.WAITS: ""})


def _norm_bound(value: object) -> object:
    """A bound as text: a number above 1, which may follow ``clip:``, or one of two words."""
    text = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value
    if not isinstance(text, str) or text in ("auto", "off"):
        return text
    try:
        bound = float(text.removeprefix("clip:"))
    except ValueError:
        bound = math.nan
    if not 1 < bound < math.inf:
        raise ValueError("expected auto, off, a number above 1, or clip: and such a number")
    return text


class Checks(SettingsTable, table="checks", heading="Updates that cannot be trusted"):
    """What is done about updates that cannot be trusted."""

    norm_bound: Annotated[str, BeforeValidator(_norm_bound)] = "auto"
    """largest update norm allowed, as a multiple of the median of this and recent rounds: a larger update is refused,
    with clip:NUMBER clipped; auto is 10, but off with --dp client and secure-aggregation"""
    keep_updates: bool = False
    """keep all updates in RUN/spool, so that plait verify can recompute every round"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.norm_bound not in ("auto", "off"):
            needs = {Trait.SINGLE_UPDATES: "their norms decide which of them count"}
            yield self.states("norm_bound", needs=needs, instead="auto or off")


class EvaluationSettings(SettingsTable, table="evaluation", heading="Evaluation"):
    """What is evaluated, how often, and what follows from it."""

    held_out_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """fraction of each client's data held out for evaluation"""
    max_held_out_sequences: Annotated[int, Field(ge=0, le=MOST)] = 0
    """most held-out sequences per client, the same ones each time; 0 limits evaluation to about a third of the training
    time, with at least 64 sequences over all clients, or 256 with classes"""
    judge_part: Annotated[int, Field(ge=0, le=MOST), BeforeValidator(number_or("auto", int))] | Literal["auto"] = "auto"
    """records from which on a client keeps half of what it holds out for a final figure: it decides nothing, neither
    which steps and adapters are kept nor when the run ends, and is measured once, at the end; 0 for none; auto is 200,
    but 0 with dp, and with secure-aggregation, where every client must have so many"""
    eval_every: Annotated[int, Field(ge=1, le=MOST)] = 1
    """rounds between evaluations; the last round is always evaluated"""
    eval_clients: Annotated[int, Field(ge=0)] = 0
    """clients that evaluate, the same ones each time; 0 means all, or with clients-per-round as many as that, at least
    8
    """
    select: Literal["accepted", "best", "last"] = "accepted"
    """accepted: publish no adapter whose held-out loss is above the base's, nor above the best published one's by more
    than a fiftieth of the gain; undo half of a step that raises it, and shorten the next steps (under masks and with
    asynchronous rounds nothing is undone); best: the same, but publish the adapter with the lowest loss; last: publish
    every round's, undo nothing; always so with dp, where nobody tells losses"""
    reference: str = ""
    """also train baselines: central (pooled data), local (each client alone), or both"""

    @field_validator("reference")
    @classmethod
    def _check_reference(cls, reference: str) -> str:
        for kind in parts_of(reference):
            if kind not in ("central", "local"):
                raise ValueError("expected central, local or central,local")
        return reference

    @property
    def references(self) -> tuple[str, ...]:
        """The baselines asked for, in order."""
        return tuple(dict.fromkeys(parts_of(self.reference)))

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        compared = {Trait.FIGURES: "losses are compared", Trait.WAITS: "it is evaluated before the next begins"}
        if self.select == "best":
            yield self.states("select", needs=compared, instead="last")
        if self.reference:
            yield self.states("reference", needs={Trait.FIGURES: "baselines show the losses of single clients"})
        if self.judge_part not in ("auto", 0):
            yield self.states("judge_part", needs={Trait.LOSSES: "the final figure is one"}, instead="0")


class Figures(SettingsTable, table="evaluation", heading="Evaluation", optional=True):
    """What held-out data are measured by besides the loss."""

    eval_metrics: str = ""
    """figures of held-out data, for each client and pooled, separated by commas: of labels accuracy, macro_f1, auroc,
    confusion; of text loss, perplexity, bits_per_byte; of generated answers exact_match, token_f1, rouge_l, or your own
    checker MODULE:NAME"""

    select_by: str = ""
    """one of eval-metrics that decides in the place of the loss which adapters are published, which steps are taken
    back, and when EarlyStopping ends a run"""

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.eval_metrics:
            yield self.states("eval_metrics", needs={Trait.LOSSES: "they are of the data that clients hold out"})


class Samples(SettingsTable, table="evaluation", heading="Evaluation", optional=True):
    """What a simulated run shows of its model at the end."""

    samples: Annotated[int, Field(ge=-1, le=16)] = -1
    """held-out beginnings that terminal and report show at the end of a simulated run, and how base and adapter
    continue them; -1 is two of bundled data and none of your own; none with differential privacy or secure aggregation
    """


class MachineSettings(SettingsTable, table="machine", heading="Machine"):
    """What the run computes on."""

    device: str = "auto"
    """device to compute on; a list such as cuda:0,cuda:1 spreads simulated clients over one process per entry; a device
    named twice is shared by two
    """
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """compute type of the frozen base"""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads; 0 means torch's default"""

    @property
    def has_several_devices(self) -> bool:
        """Whether `device` is a list, whose entries `plait.training.device.choose_devices` reads."""
        return "," in self.device

    def stated(self) -> Iterator[Stated]:
        """What these settings need of a run, and what they take away."""
        if self.has_several_devices:
            yield self.states("device", removes={Trait.RELEASED: "a client in a process of its own cannot be"})


class Reporting(SettingsTable, table="reporting", heading="Reporting"):
    """Who hears of the run while it lasts."""

    callbacks: str = ""
    """what hears every event of the run and may end it, separated by commas: plait:EarlyStopping:patience=2, your own
    MODULE:NAME:OPTION=VALUE; or a tracker that follows it: tensorboard, wandb, mlflow, trackio
    """
    publish: str = ""
    """also publish each round's adapter: to a directory, to a running vLLM (address; key in VLLM_API_KEY), or to both,
    separated by a comma"""


class Withdrawal(SettingsTable, table="withdrawal", heading="Withdrawal", optional=True):
    """Who takes no part any more."""

    without_clients: str = ""
    """clients of the data that take no part, separated by commas; `clients` does not count them"""

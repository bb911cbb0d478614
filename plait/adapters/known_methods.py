"""Methods besides LoRA: square matrices, scales, bottlenecks, prompts, the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from plait.adapters.method import (
    ATTENTION_OUTPUTS,
    FEEDFORWARD_OUTPUTS,
    AdapterRequest,
    BaseModules,
    Method,
    Option,
    Subject,
    matches,
)
from plait.adapters.spec import BOTTLENECK_TYPE
from plait.errors import ConfigError


def _lora_xs(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    # PSOFT's R left free is LoRA-XS: W' = W + U S (R - 1) V^T, with U S V^T the best approximation of W of this rank.
    return {
        "r": request.rank,
        "psoft_alpha": request.rank,  # the scale cancels in PSOFT's own factors
        "psoft_dropout": request.dropout,
        "target_modules": request.targets,
        "psoft_orth": False,
        "psoft_mag_a": False,
        "psoft_mag_b": False,
        "psoft_svd": "lowrank",
    }


def _ia3(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    names = request.target_names
    # PEFT has the paper's choice (keys, values, the last layer of a block) for the architectures that it knows.
    feedforward = [name for name in names if name in FEEDFORWARD_OUTPUTS]
    return {"target_modules": names, "feedforward_modules": feedforward} if names else {}


def _bottleneck(request: AdapterRequest, base: BaseModules) -> Mapping[str, object]:
    return _behind(request, (*base.attention_outputs, *base.feedforward_outputs))


def _pfeiffer(request: AdapterRequest, base: BaseModules) -> Mapping[str, object]:
    outputs = base.feedforward_outputs
    # Of "output.dense", "attention.output.dense" is another module.
    excluded = [name for name in base.attention_outputs if matches(name, outputs)]
    return _behind(request, outputs, excluded)


def _behind(request: AdapterRequest, outputs: Sequence[str], excluded: Sequence[str] = ()) -> Mapping[str, object]:
    """Settings of bottlenecks behind the given layers, or behind those that the user names."""
    if names := request.target_names:
        return {"r": request.rank, "target_modules": names}
    if outputs:
        return {"r": request.rank, "target_modules": [*outputs], "exclude_modules": [*excluded] or None}
    raise ConfigError(
        f"method is '{request.method}', and the layers at which the halves of this base's blocks end are not among "
        f"those that plait knows ({', '.join(dict.fromkeys([*ATTENTION_OUTPUTS, *FEEDFORWARD_OUTPUTS]))}): name "
        "them with --target-modules"
    )


LORA_XS = Method(
    name="lora_xs",
    aliases=("lora-xs", "loraxs"),
    title="LoRA-XS (arXiv 2405.17604), with rule fedsb Fed-SB (arXiv 2502.15436)",
    peft_type="PSOFT",
    settings=_lora_xs,
    averages="the square matrices R; exact",
    kept="A and B: the base's own singular vectors, which every client computes",
    subject=Subject.SQUARES,
    options=frozenset({Option.RANK, Option.DROPOUT, Option.TARGETS}),
    learning_rate=1e-2,
)

VERA = Method(
    name="vera",
    title="VeRA (arXiv 2310.11454)",
    peft_type="VERA",
    settings=lambda request, _: {
        "r": request.rank,
        "vera_dropout": request.dropout,
        "target_modules": request.targets,
        "save_projection": False,
    },
    averages="the two vectors of scales, separately; inexact, because they are multiplied",
    kept="A and B: random, from a seed",
    options=frozenset({Option.RANK, Option.DROPOUT, Option.TARGETS}),
    learning_rate=3e-2,
)

IA3 = Method(
    name="ia3",
    aliases=("(ia)3",),
    title="IA3 (arXiv 2205.05638)",
    peft_type="IA3",
    settings=_ia3,
    averages="the vectors of scales; exact, because weights are linear in them",
    learning_rate=3e-2,
)

PEANUT = Method(
    name="peanut",
    title="PEANuT: a bottleneck with a non-linearity over each weight (arXiv 2410.01870)",
    peft_type="PEANUT",
    settings=lambda request, base: {"r": request.rank, "target_modules": request.target_names or list(base.linear)},
    averages="both sides of the bottleneck, separately; inexact",
    options=frozenset({Option.RANK, Option.TARGETS}),
)

BOTTLENECK = Method(
    name="bottleneck",
    aliases=("houlsby", "adapter", "adapters"),
    title="Bottleneck adapters behind attention and feedforward layers (arXiv 1902.00751)",
    peft_type=BOTTLENECK_TYPE,
    settings=_bottleneck,
    averages="both sides of the bottleneck and their biases, separately; inexact, because it is not linear: the ledger "
    "has each round's error",
    options=frozenset({Option.RANK, Option.TARGETS}),
)

PFEIFFER = replace(
    BOTTLENECK,
    name="pfeiffer",
    aliases=(),
    title="Bottleneck adapters behind feedforward layers only (arXiv 2005.00247)",
    settings=_pfeiffer,
    fixed={"act_fn": "relu"},
)

PROMPT = Method(
    name="prompt",
    aliases=("prompt_tuning", "prompt-tuning"),
    title="Prompt tuning (arXiv 2104.08691)",
    peft_type="PROMPT_TUNING",
    settings=lambda request, _: {"num_virtual_tokens": request.virtual_tokens, "prompt_tuning_init": "SAMPLE_VOCAB"},
    averages="the virtual tokens; a mean of inputs, not of models",
    options=frozenset({Option.TOKENS}),
    learning_rate=3e-2,
)

PREFIX = Method(
    name="prefix",
    aliases=("prefix_tuning", "prefix-tuning"),
    title="Prefix tuning (arXiv 2101.00190)",
    peft_type="PREFIX_TUNING",
    settings=lambda request, _: {"num_virtual_tokens": request.virtual_tokens},
    averages="keys and values before the text; a mean of inputs, not of models",
    options=frozenset({Option.TOKENS}),
    learning_rate=3e-2,
)

P_TUNING = Method(
    name="p_tuning",
    aliases=("p-tuning",),
    title="P-tuning (arXiv 2103.10385)",
    peft_type="P_TUNING",
    settings=lambda request, _: {"num_virtual_tokens": request.virtual_tokens, "encoder_hidden_size": 128},
    averages="the prompt's encoder; inexact, for it is not linear. Published as the prompt that it makes",
    options=frozenset({Option.TOKENS}),
)

FULL = Method(
    name="full",
    aliases=("full-fine-tuning", "fft"),
    title="All linear and norm weights (arXiv 1602.05629)",
    peft_type="LN_TUNING",
    # PEFT trains a copy of each module that it is given, whatever the module is.
    settings=lambda request, base: {"target_modules": request.target_names or [*base.linear, *base.norms]},
    averages="the weights themselves; exact",
    kept="embeddings, which are frozen",
    trains_base=True,
    learning_rate=1e-4,
)

KNOWN = {
    method.name: method for method in (LORA_XS, VERA, IA3, PEANUT, BOTTLENECK, PFEIFFER, PROMPT, PREFIX, P_TUNING, FULL)
}
"""By name, the most common first."""

"""LoRA and its variants, whose tensors are factors A and B."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from plait.adapters.methods import AdapterRequest, BaseModules, Method, Option, Subject


def _lora(request: AdapterRequest, _: BaseModules) -> Mapping[str, object]:
    return {
        "r": request.rank,
        # PEFT writes alpha as an int where it is one, as every other tool that reads the file expects.
        "lora_alpha": int(request.alpha) if float(request.alpha).is_integer() else request.alpha,
        "lora_dropout": request.dropout,
        "target_modules": request.targets,
    }


_PRODUCT = "A and B, separately (fedavg) or as their product (see plait rules)"

LORA = Method(
    name="lora",
    title="LoRA (arXiv 2106.09685)",
    peft_type="LORA",
    settings=_lora,
    averages=f"{_PRODUCT}; exact where the rule is",
    subject=Subject.FACTORS,
    options=frozenset({Option.RANK, Option.ALPHA, Option.DROPOUT, Option.TARGETS}),
    learning_rate=3e-3,
)

RSLORA = replace(
    LORA,
    name="rslora",
    title="rsLoRA: alpha / sqrt(rank) (arXiv 2312.03732)",
    fixed={"use_rslora": True},
    learning_rate=1e-3,
)

QLORA = replace(
    LORA,
    name="qlora",
    title="QLoRA: LoRA over a base in four bits, NF4 (arXiv 2305.14314)",
    kept="the base's four bits: every client quantises its own copy the same way",
    quantised=True,
)

DORA = replace(
    LORA,
    name="dora",
    title="DoRA (arXiv 2402.09353)",
    fixed={"use_dora": True},
    averages=f"{_PRODUCT}, and magnitudes; never exact, because weights are divided by their own norm",
)

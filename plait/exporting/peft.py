"""A PEFT directory for PEFT, the hub and most servers, with the base's name and revision and a card."""

from __future__ import annotations

import json
from pathlib import Path

from plait.adapters import save_peft_directory
from plait.adapters.peft import registering
from plait.data import Progress
from plait.errors import ConfigError
from plait.exporting.plain_lora import Uniform, plain_lora, uniform
from plait.exporting.request import (
    AUTO_CLASS,
    BASE_ELSEWHERE,
    HERE,
    CardStyle,
    Command,
    ExportRequest,
    Writer,
    Written,
    export_card,
)
from plait.exporting.source import Source, base_in_commands

STYLE = CardStyle(library="peft", relation="adapter", what="An adapter in PEFT's format.")


def prepare_peft(request: ExportRequest, progress: Progress) -> Writer:  # noqa: ARG001 (every target is told)
    """Check that the adapter can be written as a PEFT directory of the given rank.

    Raises:
        ConfigError: a rank is given and the adapter is not plain LoRA.
    """
    fitted = at_rank(request)

    def write(folder: Path) -> Written:
        source = fitted.source
        usage = peft_usage(source, base=base_in_commands(source.base), directory=str(request.directory))
        elsewhere = peft_usage(source, base=source.base.hub_id or BASE_ELSEWHERE, directory=HERE)
        # An unchanged adapter keeps its card, which says how it was made.
        kept = source.card if source is request.source else None
        card = kept or export_card(source, STYLE, language="python", usage=elsewhere, notes=rank_notes(fitted))
        save_peft_directory(
            folder, spec=source.spec, state=source.state, base=source.base, card=card, parents=source.parents
        )
        return Written((Command("load it with PEFT", usage),), rank=source.spec.rank, lost=fitted.lost)

    return write


def at_rank(request: ExportRequest) -> Uniform:
    """The adapter at the requested rank, or unchanged.

    Raises:
        ConfigError: a rank is given and the adapter is not plain LoRA.
    """
    if request.rank is None:
        return Uniform(request.source, 0.0)
    geometry = plain_lora(request.source, use="--rank", instead="leave --rank out")
    if not geometry.pairs:
        raise ConfigError(f"adapter '{request.source.name}' has no factors, so it has no rank: leave --rank out")
    return uniform(request.source, geometry, rank=request.rank)


def rank_notes(fitted: Uniform) -> tuple[str, ...]:
    """The card's note if a rank was cut."""
    if not fitted.lost:
        return ()
    return (f"Cut to rank {fitted.source.spec.rank}: {fitted.lost:.2%} of the norm of the weight change was lost.",)


def peft_usage(source: Source, *, base: str, directory: str) -> str:
    """Python that loads a PEFT directory onto a base."""
    auto_class = AUTO_CLASS[source.spec.task]
    revision = f", revision={json.dumps(source.base.revision)}" if source.base.hub_id and source.base.revision else ""
    labels = f", num_labels={len(source.spec.labels)}" if source.spec.labels else ""
    return "\n".join(
        (
            *registering(source.spec),
            "from peft import PeftModel",
            f"from transformers import {auto_class}",
            f"base = {auto_class}.from_pretrained({json.dumps(base)}{revision}{labels})",
            f"model = PeftModel.from_pretrained(base, {json.dumps(directory)})",
        )
    )

"""PEFT directories, for PEFT, vLLM, SGLang and the hub: written, with a model card (`peft_reading` reads them).

The metadata of the tensors' file holds the provenance, as PEFT warns of unknown keys in its configuration. Names given
by users are data on a card: nothing in them becomes markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from plait.adapters.safetensors import write_safetensors
from plait.adapters.spec import AdapterSpec, AdapterTask, BaseReference, Parent
from plait.adapters.state import AdapterState
from plait.system.files import directory_written_aside, write_atomically
from plait.system.text import printable

_MAX_NAME_CHARACTERS = 200
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_AUTO_CLASS = {
    AdapterTask.CAUSAL_LM: "AutoModelForCausalLM",
    AdapterTask.CLASSIFICATION: "AutoModelForSequenceClassification",
}
_PIPELINE = {AdapterTask.CAUSAL_LM: "text-generation", AdapterTask.CLASSIFICATION: "text-classification"}


def model_card(
    *,
    name: str,
    spec: AdapterSpec,
    base: BaseReference,
    rounds: int,
    clients: int,
    base_loss: float | None = None,
    final_loss: float | None = None,
    parents: Sequence[Parent] = (),
    sections: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (),
) -> str:
    """The card of an adapter trained in federated rounds, without names of clients and of a base's directory.

    Args:
        base_loss: held-out loss before any training, in nats per token (per example for labels).
        sections: further facts of the run as trusted Markdown: headings, each with its rows.
    """
    title = escaped(name)
    facts = [
        ("Base", f"`{base.hub_id}`" if base.hub_id else "a local one, identified by its fingerprint"),
        ("Base fingerprint", f"`{base.fingerprint}`"),
        ("Method", escaped(spec.method)),
        ("Rank, alpha", None if spec.rank is None or spec.alpha is None else f"{spec.rank}, {spec.alpha:g}"),
        ("Trainable parameters", f"{spec.layout.size:,}"),
        ("Labels", ", ".join(escaped(label) for label in spec.labels) or None),
        ("Rounds", str(rounds)),
        ("Clients", str(clients)),
        *parent_rows(parents),
        (before_training(parents), None if base_loss is None else f"{base_loss:.4f}"),
        ("Held-out loss with the adapter", None if final_loss is None else f"{final_loss:.4f}"),
    ]
    remarks = [base.origin.remark] if base.origin.remark else []
    for heading, section in sections:
        if section:
            rows = "\n".join(f"| {fact} | {text} |" for fact, text in section)
            remarks.append(f"## {heading}\n\n| | |\n|---|---|\n{rows}")
    lead = (
        "An adapter trained by federated fine-tuning with plait: every client kept its data and sent only changes to "
        "the adapter."
    )
    front = front_matter(spec, base, library="peft")
    return page(front, title, lead, facts, remarks=remarks, language="python", usage=_usage(spec, base))


def page(
    front: str,
    title: str,
    lead: str,
    facts: Sequence[tuple[str, str | None]],
    *,
    remarks: Sequence[str],
    language: str,
    usage: str,
) -> str:
    """A card: front matter, title, one sentence, a table of the known facts, remarks, and lines to paste."""
    table = "\n".join(f"| {fact} | {value} |" for fact, value in facts if value is not None)
    below = "".join(f"\n{remark}\n" for remark in remarks)
    return f"""{front}
# {title}

{lead}

| | |
|---|---|
{table}
{below}
## Use it

```{language}
{usage}
```
"""


def front_matter(spec: AdapterSpec, base: BaseReference, *, library: str, relation: str = "") -> str:
    """What the hub reads of a card: the library that loads the files, the base and their relation to it, the task."""
    lines = ["---", f"library_name: {library}"]
    # The hub refuses a card whose base_model is not one of its own names.
    if base.hub_id:
        lines.append(f"base_model: {json.dumps(base.hub_id)}")
        lines += [f"base_model_relation: {relation}"] if relation else []
    lines += [f"pipeline_tag: {_PIPELINE[spec.task]}", "tags:"]
    lines += [f"- {json.dumps(tag)}" for tag in ("plait", "federated-learning", spec.method)]
    return "\n".join([*lines, "---"])


def parent_rows(parents: Sequence[Parent]) -> list[tuple[str, str]]:
    """Rows of a card's table that name the adapters that this one was derived from."""
    return [
        (
            "Continued from the adapter with SHA-256",
            f"`{parent.digest}`" + ("" if parent.weight == 1.0 else f", {parent.weight:g} times"),
        )
        for parent in parents
    ]


def before_training(parents: Sequence[Parent]) -> str:
    """What the loss before round 1 refers to."""
    return "Held-out loss before round 1" if parents else "Held-out loss of the base"


def escaped(text: str) -> str:
    """`text` as literal Markdown on one line: no markup, no HTML, nothing invisible, at most 200 characters."""
    plain = printable(text, limit=_MAX_NAME_CHARACTERS)
    return _PUNCTUATION.sub(lambda match: _HTML.get(match[0], f"\\{match[0]}"), plain)


def registering(spec: AdapterSpec) -> tuple[str, ...]:
    """Python that registers the adapter's method with PEFT; nothing for PEFT's own."""
    return ("import plait.training.bottleneck  # tells PEFT of the method",) if spec.is_bottleneck else ()


def _usage(spec: AdapterSpec, base: BaseReference) -> str:
    auto_class = _AUTO_CLASS[spec.task]
    source = json.dumps(base.hub_id or "path/to/the/base")
    revision = f", revision={json.dumps(base.revision)}" if base.hub_id and base.revision else ""
    labels = f", num_labels={len(spec.labels)}" if spec.labels else ""
    first = "".join(f"{line}\n" for line in registering(spec))
    return f"""{first}from peft import PeftModel
from transformers import {auto_class}
base = {auto_class}.from_pretrained({source}{revision}{labels})
model = PeftModel.from_pretrained(base, "path/to/this/directory")"""


CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "README.md"
PROVENANCE = "plait"
"""Key of what plait stores with the tensors and PEFT has no place for."""


def save_peft_directory(
    path: Path,
    *,
    spec: AdapterSpec,
    state: AdapterState,
    base: BaseReference,
    card: str,
    parents: Sequence[Parent] = (),
) -> None:
    """Write an adapter to `path`, replacing what was there; a crash leaves the old directory or the new one.

    Raises:
        MachineError: the parent is missing or read-only, or the disk is full.
    """
    if state.layout.digest != spec.layout.digest:
        raise ValueError("state and spec have different layouts")
    config = {
        **spec.peft_config,
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
    }
    provenance = {
        "base_fingerprint": base.fingerprint,
        "init_seed": spec.init_seed,
        "labels": list(spec.labels),
        "method": spec.method,
        "spec_digest": spec.digest.hex(),
        **({"parents": [parent.to_json() for parent in parents]} if parents else {}),
        **({"built_in": base.built_in} if base.built_in else {}),
    }
    # "format" is the key that PEFT itself writes.
    metadata = {"format": "pt", PROVENANCE: json.dumps(provenance, sort_keys=True)}
    with directory_written_aside(path) as aside:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
        write_atomically(aside / CONFIG_FILE, text.encode() + b"\n")
        write_safetensors(aside / WEIGHTS_FILE, dict(state.items()), metadata)
        write_atomically(aside / CARD_FILE, card.encode())

"""PEFT directories, for PEFT, vLLM, SGLang and the hub: written, with a model card (`peft_reading` reads them).

The metadata of the tensors' file holds the provenance, as PEFT warns of unknown keys in its configuration. Names given
by users are data on a card: nothing in them becomes markup.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from plait.adapters.safetensors import encode_arrays
from plait.adapters.spec import AdapterSpec, AdapterTask, BaseReference, Parent
from plait.adapters.state import AdapterState
from plait.system.files import directory_written_aside, write_atomically
from plait.system.text import printable

_MAX_NAME_CHARACTERS = 200
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
AUTO_CLASS = {
    AdapterTask.CAUSAL_LM: "AutoModelForCausalLM",
    AdapterTask.CLASSIFICATION: "AutoModelForSequenceClassification",
}
_PIPELINE = {AdapterTask.CAUSAL_LM: "text-generation", AdapterTask.CLASSIFICATION: "text-classification"}
# A directory's name is left out of the card: it means nothing elsewhere.
BASE_ELSEWHERE = "path/to/the/base"
HERE = "path/to/this/directory"


def model_card(
    *,
    name: str,
    spec: AdapterSpec,
    base: BaseReference,
    facts: Mapping[str, float | None],
    parents: Sequence[Parent] = (),
    sections: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (),
) -> str:
    """The card of an adapter trained in federated rounds, without names of clients and of a base's directory.

    Args:
        facts: see `fact_rows`.
        sections: further facts of the run as trusted Markdown: headings, each with its rows.
    """
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
    usage = peft_usage(spec, base, name=base.hub_id or BASE_ELSEWHERE, directory=HERE)
    rows = fact_rows(spec, base, facts, parents)
    return page(front, escaped(name), lead, rows, remarks=remarks, language="python", usage=usage)


def fact_rows(
    spec: AdapterSpec,
    base: BaseReference,
    facts: Mapping[str, float | None],
    parents: Sequence[Parent],
    *,
    client: str = "",
    digest: str = "",
) -> list[tuple[str, str | None]]:
    """Rows of a card's table; None for what is not known.

    Args:
        facts: rounds, clients and losses of the run, by the keys of ``summary.json``.
        client: owner of a personalized adapter.
        digest: of the adapter that this one was made from.
    """

    def shown(key: str, style: str) -> str | None:
        return None if (value := facts.get(key)) is None else format(value, style)

    continued = [
        (
            "Continued from the adapter with SHA-256",
            f"`{parent.digest}`" + ("" if parent.weight == 1.0 else f", {parent.weight:g} times"),
        )
        for parent in parents
    ]
    return [
        ("Base", f"`{base.hub_id}`" if base.hub_id else "a local one, identified by its fingerprint"),
        ("Revision of the base", escaped(base.revision) if base.revision else None),
        ("Base fingerprint", f"`{base.fingerprint}`"),
        ("Method", escaped(spec.method)),
        ("Rank, alpha", None if spec.rank is None or spec.alpha is None else f"{spec.rank}, {spec.alpha:g}"),
        ("Trainable parameters", f"{spec.layout.size:,}"),
        ("Labels", ", ".join(escaped(label) for label in spec.labels) or None),
        ("Personalized adapter of client", escaped(client) or None),
        ("Rounds", shown("rounds", ".0f")),
        ("Clients", shown("clients", ".0f")),
        *continued,
        (f"Held-out loss {'before round 1' if parents else 'of the base'}", shown("base_held_out_loss", ".4f")),
        ("Held-out loss with the adapter", shown("final_held_out_loss", ".4f")),
        ("Made from the adapter with SHA-256", f"`{digest}`" if digest else None),
    ]


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


def escaped(text: str) -> str:
    """`text` as literal Markdown on one line: no markup, no HTML, nothing invisible, at most 200 characters."""
    plain = printable(text, limit=_MAX_NAME_CHARACTERS)
    return _PUNCTUATION.sub(lambda match: _HTML.get(match[0], f"\\{match[0]}"), plain)


def peft_usage(spec: AdapterSpec, base: BaseReference, *, name: str, directory: str) -> str:
    """Python that loads a PEFT directory onto a base, and first registers a method that PEFT lacks."""
    auto_class = AUTO_CLASS[spec.task]
    revision = f", revision={json.dumps(base.revision)}" if base.hub_id and base.revision else ""
    labels = f", num_labels={len(spec.labels)}" if spec.labels else ""
    first = "import plait.training.bottleneck  # registers the method with PEFT\n" if spec.is_bottleneck else ""
    return f"""{first}from peft import PeftModel
from transformers import {auto_class}
base = {auto_class}.from_pretrained({json.dumps(name)}{revision}{labels})
model = PeftModel.from_pretrained(base, {json.dumps(directory)})"""


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
        write_atomically(aside / WEIGHTS_FILE, encode_arrays(dict(state.items()), metadata))
        write_atomically(aside / CARD_FILE, card.encode())

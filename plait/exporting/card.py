"""The README.md of an export: YAML for the hub, the origin of the weights, and how to use them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plait.adapters.model_card import before_training, escaped, front_matter, page, parent_rows
from plait.exporting.source import Source

# A directory's name is left out of the card: it means nothing elsewhere.
BASE_ELSEWHERE = "path/to/the/base"
HERE = "path/to/this/directory"


@dataclass(frozen=True)
class CardStyle:
    """What the cards of one target have in common.

    Attributes:
        library: the hub's name of the library that loads the files.
        relation: the hub's word for what they are to the base: adapter or finetune.
        what: one sentence that describes the files.
    """

    library: str
    relation: str
    what: str


def export_card(source: Source, style: CardStyle, *, language: str, usage: str, notes: Sequence[str] = ()) -> str:
    """The card of exported weights.

    Args:
        language: of `usage`, for the fence: ``python`` or ``sh``.
    """
    spec, base, facts = source.spec, source.base, source.facts
    rows = [
        ("Base", f"`{base.hub_id}`" if base.hub_id else "a local one, identified by its fingerprint"),
        ("Revision of the base", escaped(base.revision) if base.revision else None),
        ("Base fingerprint", f"`{base.fingerprint}`"),
        ("Method", escaped(spec.method)),
        ("Rank, alpha", None if spec.rank is None or spec.alpha is None else f"{spec.rank}, {spec.alpha:g}"),
        ("Labels", ", ".join(escaped(label) for label in spec.labels) or None),
        ("Personalized adapter of client", escaped(source.client) or None),
        ("Rounds", _shown(facts.get("rounds"), "g")),
        ("Clients", _shown(facts.get("clients"), "g")),
        *parent_rows(source.parents),
        (before_training(source.parents), _shown(facts.get("base_held_out_loss"), ".4f")),
        ("Held-out loss with the adapter", _shown(facts.get("final_held_out_loss"), ".4f")),
        ("Made from the adapter with SHA-256", f"`{source.digest}`" if source.digest else None),
    ]
    how = "Trained by federated fine-tuning with plait: every client kept its data and sent only changes."
    lead = f"{style.what} {how}"
    remarks = (*filter(None, [base.origin.remark]), *notes)
    front = front_matter(spec, base, library=style.library, relation=style.relation)
    return page(front, escaped(source.name), lead, rows, remarks=remarks, language=language, usage=usage)


def _shown(value: float | None, style: str) -> str | None:
    return None if value is None else format(value, style)

from dataclasses import replace

import yaml

from plait.adapters import BaseReference
from plait.exporting.request import CardStyle, export_card
from plait.exporting.source import Source, open_source


def card_of(source: Source) -> tuple[dict[str, object], str]:
    """What the hub reads, and all of it."""
    style = CardStyle(library="peft", relation="adapter", what="Something.")
    card = export_card(source, style, language="sh", usage="run it")
    return yaml.safe_load(card.split("---\n")[1]), card


def test_a_hub_base_is_on_the_card_with_its_revision_and_a_directory_of_this_machine_is_not(by_plait):
    source = open_source(by_plait())
    front, card = card_of(replace(source, base=BaseReference("owner/model", "abc123", source.base.fingerprint)))
    assert front["base_model"] == "owner/model"
    assert "| Base | `owner/model` |" in card
    assert "| Revision of the base | abc123 |" in card
    front, card = card_of(source)
    assert "base_model" not in front
    assert source.base.name not in card

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from plait.adapters import BaseReference
from plait.exporting.card import CardStyle, export_card
from plait.exporting.source import Source, open_source

STYLE = CardStyle(library="peft", relation="adapter", what="Something.")


def front_matter(source: Source) -> dict[str, object]:
    card = export_card(source, STYLE, language="sh", usage="run it")
    return yaml.safe_load(card.split("---\n")[1])


def test_a_hub_base_is_named_as_the_hub_wants_it_with_its_revision(by_plait: Callable[..., Path]) -> None:
    source = open_source(by_plait())
    hub = replace(source, base=BaseReference("owner/model", "abc123", source.base.fingerprint))
    assert front_matter(hub)["base_model"] == "owner/model"
    card = export_card(hub, STYLE, language="sh", usage="run it")
    assert "| Base | `owner/model` |" in card
    assert "| Revision of the base | abc123 |" in card


def test_a_directory_of_this_machine_stays_off_the_card(by_plait: Callable[..., Path]) -> None:
    source = open_source(by_plait())
    assert "base_model" not in front_matter(source)
    assert source.base.name not in export_card(source, STYLE, language="sh", usage="run it")

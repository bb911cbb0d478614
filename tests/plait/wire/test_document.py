"""The protocol's document against the code: its lists are the code's."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from plait.adapters.fingerprint import TOKENIZER_FILES, VOLATILE_CONFIG_KEYS
from plait.secagg.sums import EVALUATION, TRAINING
from plait.wire.messages import TASK_SCHEMA
from plait.wire.settings import Settings

FOLDER = Path(__file__).parents[3] / "proto"
TEXT = (FOLDER / "README.md").read_text()


def section(title: str, end: str = "\n#") -> str:
    return TEXT.partition(f"{title}\n")[2].partition(end)[0]


def test_it_names_every_setting_with_its_default():
    rows = re.findall(r"^\| ([a-z_, ]+) \| (.*) \|(.*) \|$", section("## Tasks"), re.MULTILINE)
    found: dict[str, object] = {}
    for names, _, default in rows:
        defaults = [] if not default.strip() else [each.strip().strip("`") for each in default.split(",")]
        for place, name in enumerate(names.split(", ")):
            text = defaults[min(place, len(defaults) - 1)] if defaults else None
            found[name] = _value(text)
    own = {"seed", "round", "done_steps", "trained", "steps", "judging"}
    fields = [each for each in dataclasses.fields(Settings) if each.name not in own]
    assert found == {e.name: None if e.default is dataclasses.MISSING else e.default for e in fields}


def _value(text: str | None) -> object:
    if text in (None, "empty"):
        return "" if text else None
    try:
        return json.loads(text)
    except ValueError:
        return text


def _paragraph(start: str) -> str:
    return (start + TEXT.partition(start)[2]).partition("\n\n")[0]


def test_it_names_the_figures_under_masks():
    found = re.findall(
        r"`([a-z_]+)`( · 2[³⁴][²⁰])?", _paragraph("**Figures.**").partition("own one: ")[2].partition(". A")[0]
    )
    scales = {"": 1, " · 2³²": 1 << 32, " · 2⁴⁰": 1 << 40}
    shared = {name: scales[scale] for name, scale in found}
    assert shared | {f"own_{name}": scale for name, scale in shared.items()} == dict(EVALUATION)
    assert [*shared, *(f"own_{name}" for name in shared)] == [*EVALUATION]
    assert f"Of Evaluate {len(EVALUATION)}" in TEXT
    assert dict(TRAINING) == {"square": 1 << 16}


@pytest.mark.parametrize("name", [*TOKENIZER_FILES, *sorted(VOLATILE_CONFIG_KEYS)])
def test_it_names_what_the_fingerprint_is_of(name):
    assert f"`{name}`" in _paragraph("**Base fingerprint.**")


def test_it_names_the_version_of_a_task():
    assert f"{TASK_SCHEMA} in Task" in TEXT

"""The guide to loops of one's own: its programs run as they stand, and its diffs name what there is."""

import re
from pathlib import Path

import plait
from plait import flower

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/guides/compress.md").read_text(encoding="utf-8")


def test_the_guides_programs_run_as_they_stand():
    programs = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(programs) == 2
    found: dict[str, object] = {}
    exec("\n".join(programs), found)
    assert isinstance(found["message"], bytes)
    assert found["client"].digest == found["down"].digest


def test_the_guides_and_the_readmes_diffs_name_what_there_is():
    added = re.findall(r"^\+.*", PAGE + (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert "+app = ClientApp(mods=[compression_mod])" in added
    for name in re.findall(r"plait\.([A-Za-z]+)\(", "\n".join(added)):
        assert name in plait.__all__
    for names in re.findall(r"from plait\.flower import (.*)", "\n".join(added)):
        assert set(names.split(", ")) <= set(flower.__all__)

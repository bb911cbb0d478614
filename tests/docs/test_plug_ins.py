"""The guide to parts of one's own: every cell of its table is true, and its example is a callback."""

import inspect
import re
from pathlib import Path

import pytest

from plait.api.settings import RunSettings
from plait.api.simulate import simulate
from plait.cli import development
from plait.config import config_from_table, known_keys
from plait.plugins import Kind

GUIDES = Path(__file__).parents[2] / "docs/guides"
PAGE = (GUIDES / "plug-ins.md").read_text(encoding="utf-8")
_LINES = PAGE[PAGE.index("| Part |") : PAGE.index("- **In Python**")].splitlines()
ROWS = {
    row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("|").split("|")] for line in _LINES[2:] if line)
}


def test_every_kind_has_its_row():
    assert set(ROWS) == {kind.value for kind in Kind}


@pytest.mark.parametrize("kind", Kind)
def test_a_part_is_named_in_every_way_that_its_row_says(kind):
    _, argument, option, table, group, checked = ROWS[kind.value]
    assert argument.strip("`") in {*inspect.signature(simulate).parameters, *RunSettings.__annotations__}
    key = option.strip("`").removeprefix("--")
    assert key in known_keys()
    assert group == f"`{kind.group}`"
    if not table.startswith("no: "):
        assert table.strip("`[]") == key
        given: object = {"name": "my_parts:part", "first": 1, "second": True}
        config = config_from_table({key: [given, {"name": "other"}] if "[[" in table else given})
        text = "my_parts:part:first=1,second=True"
        assert getattr(config, key.replace("-", "_")) == (f"{text},other" if "[[" in table else text)
        # What is named here may be imported, and its source is recorded.
        assert (kind, text) in config.parts
    assert (checked == "yes") == (kind in development._CHECKED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "name", "claims"),
    [
        ("plug-ins.md", "my_callbacks:Budget:megabytes=20", 3),
        ("preferences.md", "my_objectives:Hinge:margin=2", 3),
        ("preferences.md", "my_reward:right:close=0.5", 2),
    ],
)
def test_the_guides_examples_keep_their_contracts(page, name, claims, tmp_path, monkeypatch, capsys, nothing_named):
    module = name.partition(":")[0]
    (code,) = re.findall(rf"```python\n(# {module}.py\n.*?)```", (GUIDES / page).read_text("utf-8"), re.DOTALL)
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    development.check_plugin(name)
    marks = [line[:6].strip() for line in capsys.readouterr().out.splitlines()]
    assert len(marks) == claims
    assert set(marks) <= {"ok", "-"}

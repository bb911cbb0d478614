"""Parts that users bring, found by name: what is imported, and what is not."""

import hashlib
import sys
from dataclasses import dataclass

import pytest

from plait.errors import ConfigError
from plait.plugin_search import installed
from plait.plugins import Kind, admit, find, reference, source_of


@pytest.fixture
def here(tmp_path, monkeypatch, nothing_named):
    """A working directory of the operator's, in a process that has admitted and imported nothing yet."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def install(folder, name, version="1.0", **groups):
    """A distribution in a folder, as pip would leave it."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = [
        f"[plait.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_a_module_is_imported_only_after_the_operator_named_it(here):
    (here / "parts_a.py").write_text("raise RuntimeError('imported')\n")
    with pytest.raises(ConfigError, match=r"which this machine's operator did not name.*--allow-plugin parts_a"):
        find(Kind.RULE, "parts_a:part")
    assert "parts_a" not in sys.modules
    assert str(here) not in sys.path
    admit("parts_a:part:groups=3")
    with pytest.raises(ConfigError, match="imported"):
        find(Kind.RULE, "parts_a:part")


def test_admitting_one_module_admits_no_other_no_submodule_and_nothing_that_it_imports(here):
    (here / "parts_b.py").write_text("import os\n\n\nclass Parts:\n    inner = len\n")
    admit("parts_b:Parts")
    assert find(Kind.RULE, "parts_b:Parts.inner") is len
    for name in ("os:system", "parts_b.inner:part", "parts_bb:part"):
        with pytest.raises(ConfigError, match="did not name"):
            find(Kind.RULE, name)
    for name in ("parts_b:os.system", "parts_b:os"):
        with pytest.raises(ConfigError, match="leads into another module"):
            find(Kind.RULE, name)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n\ny = 1 / 0\n", r"ZeroDivisionError: division by zero \(.*parts_c\.py, line 3\)"),
        ("import no_such_library\n", r"No module named 'no_such_library' \(.*parts_c\.py, line 1\)"),
        ("def f(:\n", r"SyntaxError: .* \(.*parts_c\.py, line 1\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(.*parts_c\.py, line 2\)"),
        ("import json\n\n\njson.loads('{')\n", r"JSONDecodeError: .* \(.*parts_c\.py, line 4\)"),
    ],
    ids=["an error", "a library that is missing", "bad syntax", "an exit", "an error within a library"],
)
def test_a_module_that_cannot_be_imported_is_one_line_with_the_place_in_it(here, text, said):
    (here / "parts_c.py").write_text(text)
    admit("parts_c:part")
    with pytest.raises(ConfigError, match=said) as caught:
        find(Kind.RULE, "parts_c:part")
    assert "\n" not in str(caught.value)


def test_a_mistyped_name_gets_the_nearest_one(here):
    (here / "parts_d.py").write_text("def median_of_means(): ...\n")
    admit("parts_d:x", "parts_e:x")
    with pytest.raises(ConfigError, match="did you mean 'median_of_means'"):
        find(Kind.RULE, "parts_d:median_of_meanz")
    with pytest.raises(ConfigError, match="no module 'parts_e' in this directory or installed here"):
        find(Kind.RULE, "parts_e:x")
    with pytest.raises(ConfigError, match=r"expected one of fedavg, .*did you mean 'fedavg'"):
        find(Kind.RULE, "fedavgg", known=["fedavg"])


def test_nothing_beside_a_plugin_hides_an_installed_library(here, monkeypatch):
    (here / "parts_f.py").write_text("import csv\npart = csv.reader\n")
    (here / "csv.py").write_text("raise RuntimeError('planted')\n")
    monkeypatch.delitem(sys.modules, "csv", raising=False)
    admit("parts_f:part")
    assert callable(find(Kind.RULE, "parts_f:part"))


def test_an_installed_part_is_found_by_its_plain_name_and_kind(here):
    site = here / "site"
    (site / "outside").mkdir(parents=True)
    (site / "outside" / "__init__.py").write_text("part = 'theirs'\n")
    install(site, "outside", rules={"theirs": "outside:part", "twice": "outside:part"})
    sys.path.append(str(site))
    assert find(Kind.RULE, "theirs") == "theirs"
    assert dict(installed(Kind.RULE)) == {"theirs": "outside 1.0", "twice": "outside 1.0"}
    with pytest.raises(ConfigError, match="codec is 'theirs'"):
        find(Kind.CODEC, "theirs")
    install(site, "other", rules={"twice": "outside:part"})
    with pytest.raises(ConfigError, match="installed by other and outside"):
        find(Kind.RULE, "twice")


def test_no_distribution_is_looked_for_where_only_a_plugin_is_searched(here):
    (here / "parts_g.py").write_text("part = 1\n")
    install(here, "planted", rules={"planted": "planted_code:part"})
    admit("parts_g:part")
    find(Kind.RULE, "parts_g:part")
    assert str(here) in sys.path
    assert not installed(Kind.RULE)


def test_an_object_of_this_process_is_found_under_its_reference(here):
    def local(updates, ctx): ...

    name = reference(Kind.RULE, local)
    assert name.startswith(f"{__name__}:test_an_object_of_this_process")
    assert find(Kind.RULE, name) is local
    with pytest.raises(ConfigError):
        find(Kind.CODEC, name)


def test_a_dataclass_is_named_with_the_options_that_differ(here):
    assert reference(Kind.PARTITION, Sample()) == f"{__name__}:Sample"
    assert reference(Kind.PARTITION, Sample(groups=5)) == f"{__name__}:Sample:groups=5"
    assert find(Kind.PARTITION, f"{__name__}:Sample") is Sample


@dataclass(frozen=True)
class Sample:
    groups: int = 3
    other: float = 0.5


def test_the_source_is_the_modules_file_or_the_objects_own_lines(here):
    text = "part = len\n"
    (here / "parts_h.py").write_text(text)
    admit("parts_h:part")
    source = source_of(Kind.RULE, "parts_h:part")
    assert (source.kind, source.name, source.distribution) == (Kind.RULE, "parts_h:part", "")
    assert source.sha256 == hashlib.sha256(text.encode()).hexdigest()

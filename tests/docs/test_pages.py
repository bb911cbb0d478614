"""The repository's Markdown: no link is broken, and every page begins with what it is for."""

import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import plait
from plait.config import key_named, known_keys

ROOT = Path(__file__).resolve().parents[2]
_CODE = re.compile(r"```.*?```", re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
# Made by docs/pages.py.
_GENERATED = {f"docs/reference/{name}.md" for name in ("commands", "settings", "traits", "rules", "methods")}


def pages() -> list[str]:
    """Every page that belongs to the repository."""
    command = ["git", "ls-files", "*.md", "docs/llms.txt"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    # In a copy without git there is nothing to go through.
    return [page for page in listed.stdout.decode().split() if (ROOT / page).exists()]


def test_a_checkout_has_pages():
    assert pages() or not (ROOT / ".git").exists()


def anchors(page: Path) -> set[str]:
    """What a link may name after ``#``."""
    headings = re.findall(r"^#+ (.*)$", _CODE.sub("", page.read_text("utf-8")), re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower().strip() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


def broken(page: str, sites: dict[str, str]) -> Iterator[str]:
    """Links of a page to files or headings that do not exist; `sites` has the source of a page of the site."""
    for link in _LINK.findall(_CODE.sub("", (ROOT / page).read_text("utf-8"))):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (ROOT / page).parent.joinpath(path).resolve().relative_to(ROOT).as_posix() if path else page
        if target in _GENERATED:
            continue
        found = ROOT / sites.get(target, target)
        if found.is_dir() and anchor:
            found /= "README.md"
        if not found.exists() or (anchor and anchor not in anchors(found)):
            yield link


@pytest.mark.parametrize("page", pages())
def test_no_link_is_broken(page):
    made: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "pages.py"))["PAGES"]
    sites = {f"docs/{shown}": source for source, shown in made.items()}
    assert list(broken(page, sites)) == []


def test_every_public_name_is_in_the_reference():
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    places = set(re.findall(r"^::: (\S+)", page, re.MULTILINE))
    for name in plait.__all__:
        if name == "__version__" or not hasattr(plait, name):
            continue
        found = getattr(plait, name)
        assert any(place.endswith(f".{found.__name__}") for place in places), name


def test_what_stands_for_the_fields_of_other_trainers_are_settings_and_its_aliases_are_taken():
    rows = re.findall(
        r"^\| (`.*?) \| (.*?) \| (.*?) ?\|$", (ROOT / "docs/guides/from-sft.md").read_text(), re.MULTILINE
    )
    found = [(re.findall("`(.*?)`", theirs), re.findall("`(.*?)`", ours), note) for theirs, ours, note in rows]
    assert len(found) > 40
    assert {key for _, ours, _ in found for key in ours} <= {*known_keys()}
    named = [pair for theirs, ours, note in found if "alias" in note for pair in zip(theirs, ours, strict=True)]
    assert [key_named(theirs, where="guide") for theirs, _ in named] == [ours for _, ours in named]

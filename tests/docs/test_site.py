"""The documentation site: builds without a broken link, and no page asks another machine for anything."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mkdocs
import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a browser fetches by itself; a link that a reader may follow is not among them.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|icon|preload|preconnect|manifest|dns-prefetch))[^>]*\bhref\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|url\(["']?(?:https?:)?//[^)]+|@import\s+["'](?:https?:)?//[^"']+"""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_no_page_asks_another_machine_for_anything(site):
    found = {
        f"{path.relative_to(site)}: {match[0]}"
        for path in site.rglob("*")
        if path.suffix in (".html", ".css")
        for match in _FETCHED.finditer(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.slow
def test_every_command_and_setting_has_its_place(site):
    from plait.cli.verbs import FORMS, VERBS
    from plait.config import known_keys

    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for verb in (*VERBS, *FORMS):
        assert f"plait {verb}" in commands, verb
    assert not [key for key in known_keys() if f"<code>{key}</code>" not in settings]


FIRST_HITS = {
    "epochs": "reference/settings.html#epochs-and-packing-optimizer",
    "FSDP": "guides/which-base-fits.html#several-gpus",
    "patient": "guides/privacy.html#what-an-attacker-finds",
    "cosine": "guides/from-sft.html",
    "hold out by patient": "guides/own-data.html#what-is-held-out",
    "is held-out loss optimistic": "guides/reading-a-report.html#is-the-held-out-loss-optimistic",
    "what a trainer gets": "guides/plug-ins.html#a-trainer",
    "formats": "reference/formats.html",
}


@pytest.mark.slow
def test_the_first_hit_of_a_question_answers_it(site):
    if (node := shutil.which("node")) is None:
        pytest.skip("Node.js is not installed")
    lunr = Path(mkdocs.__file__).parent / "contrib" / "search" / "templates" / "search" / "lunr.js"
    index = site / "search" / "search_index.json"
    command = [node, ROOT / "tests" / "docs" / "hits.js", lunr, ROOT / "docs" / "search.js", index, *FIRST_HITS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert dict(zip(FIRST_HITS, json.loads(done.stdout), strict=True)) == FIRST_HITS

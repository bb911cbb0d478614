"""The documentation site: builds without a broken link, and no page asks another machine for anything."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What a browser fetches by itself; a link that a reader may follow is not among them.
_FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|<link\b(?=[^>]*\brel\s*=\s*["']?(?:stylesheet|icon|preload|preconnect|manifest|dns-prefetch))[^>]*\bhref\s*=\s*["']?(?:https?:)?//[^"'\s>]+"""
    r"""|url\(["']?(?:https?:)?//[^)]+|@import\s+["'](?:https?:)?//[^"']+"""
)


@pytest.fixture(scope="module")
def pages():
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "docs" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_a_link_to_a_file_that_is_a_page_leads_there(pages):
    turned = pages.linked("[a](../SECURITY.md#trust), [b](../server/README.md)", "client/README.md", "guides/client.md")
    assert turned == "[a](../project/security.md#trust), [b](server.md)"


def test_the_links_of_llms_txt_lead_to_the_sites_pages(pages, tmp_path):
    (tmp_path / "llms.txt").write_text("- [Your own data](guides/own-data.md): formats of `--data`\n")
    pages.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    assert (tmp_path / "llms.txt").read_text() == "- [Your own data](guides/own-data.html): formats of `--data`\n"


def test_a_link_to_a_folder_leads_to_its_page(pages):
    turned = pages.linked("[x](simulations/wire)", "ARCHITECTURE.md", "project/architecture.md")
    assert turned == "[x](../experiments/wire.md)"


def test_a_link_to_a_file_without_a_page_is_plain_text(pages):
    assert pages.linked("see [compose](compose.yaml).", "server/README.md", "guides/server.md") == "see compose."


def test_links_outside_and_within_the_page_stay(pages):
    text = "[p](https://example.org/x) [q](#trust) ![plot](wire.png)"
    assert pages.linked(text, "SECURITY.md", "project/security.md") == text

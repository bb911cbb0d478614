"""Pages of the site that come from the repository, so that nothing is written twice.

Markdown files outside docs/ become pages, with their links turned to pages; the reference of commands, settings, rules
and methods is made from the code. mkdocs calls the functions whose names begin with `on_`.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from plait.settings.traits import Stated

ROOT = Path(__file__).resolve().parents[1]

PAGES = {
    "ARCHITECTURE.md": "project/architecture.md",
    "CHANGELOG.md": "project/changes.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "client/README.md": "guides/client.md",
    "proto/README.md": "reference/wire.md",
    "server/README.md": "guides/server.md",
    "simulations/LOG.md": "experiments/log.md",
    "simulations/README.md": "experiments/index.md",
    "tests/scoreboard/README.md": "reference/scoreboard.md",
    **{
        f"simulations/{path.parent.name}/README.md": f"experiments/{path.parent.name}.md"
        for path in sorted(ROOT.glob("simulations/*/README.md"))
    },
}
"""Files of the repository, and the page that each becomes."""

# The README's parts are pages of their own here.
_README = "index.md"
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
_IMAGE = re.compile(r"!\[[^\]]*\]\(([^():\s]+)\)")
_COMMANDS = "# Commands\n\nEvery command with its arguments and options, as `plait COMMAND --help-all` shows them."
_STYLED = re.compile(r' ?<span style="[^"]*">(\[.*?\])</span>')


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the experiments."""
    section = [page for page in PAGES.values() if page.startswith("experiments/")]
    section.sort(key=lambda page: (page != "experiments/index.md", page))
    assert config.nav is not None
    config.nav.append({"Experiments": section})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        # Whoever searches wants a guide first.
        least = "---\nsearch:\n  boost: 0.3\n---\n" if page.startswith("experiments/") else ""
        files.append(File.generated(config, page, content=least + linked(text, source, page)))
        for image in _IMAGE.findall(text):
            shown = posixpath.join(posixpath.dirname(page), image)
            files.append(File.generated(config, shown, abs_src_path=str(ROOT / posixpath.dirname(source) / image)))
    for page, make in (
        ("reference/commands.md", commands),
        ("reference/settings.md", settings),
        ("reference/policy.md", policy),
        ("reference/traits.md", traits),
        ("reference/rules.md", rules),
        ("reference/methods.md", methods),
    ):
        files.append(File.generated(config, page, content="\n".join(make()) + "\n"))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Let the links of llms.txt lead to the site's pages; in the repository they lead to their sources."""
    page = Path(config.site_dir) / "llms.txt"
    page.write_text(page.read_text(encoding="utf-8").replace(".md)", ".html)"), encoding="utf-8")


def linked(text: str, source: str, page: str) -> str:
    """The text of a file as a page: links to other pages point there, links to other files are plain text."""

    def turn(match: re.Match[str]) -> str:
        label, target = match.groups()
        if re.match(r"[a-z]+:|#", target):
            return match[0]
        path, hash_sign, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if (ROOT / path).is_dir():
            path = posixpath.join(path, "README.md")
        found = _README if path == "README.md" else PAGES.get(path)
        if not found:
            return label
        anchor = "" if found == _README else hash_sign + anchor
        return f"[{label}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(turn, text)


def commands() -> Iterator[str]:
    """Every command with its options, as ``--help`` describes them."""
    made = subprocess.run(
        [sys.executable, "-m", "typer", "plait.cli.app", "utils", "docs", "--name", "plait"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    yield _STYLED.sub(r" \1", made.stdout).replace("# `plait`", _COMMANDS, 1)


def settings() -> Iterator[str]:
    """The settings of a run."""
    from plait.config import ALIASES, sections

    yield "# Settings"
    yield "\nEvery setting of a run, by feature. Each is an option of `plait simulate` and `plait server`, a key of a"
    yield "TOML file (in the table in brackets, or above all tables), and an argument of `plait.simulate` (with"
    yield "underscores)."
    for group, names in sections():
        yield f"\n## {group.heading}" + (f" `[{group.table}]`" if group.table else "")
        yield "\n| Setting | Default | |\n|---|---|---|"
        for name in names:
            field = group.model_fields[name]
            default = "" if field.default == "" else f"`{str(field.default).lower()}`"
            yield f"| `{name.replace('_', '-')}` | {default} | {cell(field.description or '')} |"
    yield "\n## Names of other systems\n\n| Name | Setting |\n|---|---|"
    for alias, name in ALIASES.items():
        yield f"| `{alias}` | `{name}` |"


def policy() -> Iterator[str]:
    """What a client's operator may limit."""
    from plait.policy import Policy

    yield "# Policy\n\nThe keys of a client's policy (`plait client --policy FILE.toml`)."
    yield "\n| Key | Default | |\n|---|---|---|"
    for name, field in Policy.model_fields.items():
        default = json.dumps(field.get_default())
        yield f"| `{name.replace('_', '-')}` | `{default}` | {cell(field.description or '')} |"


def traits() -> Iterator[str]:
    """What parts of a run need of it and take away, as they state it."""
    from plait.settings.traits import Trait

    yield "# What goes with what\n"
    yield "Which settings, rules, methods and server optimizers cannot be combined. A run has every trait below until a"
    yield "part takes it away. plait refuses a part that needs it then, before the run begins, and names both and their"
    yield "alternatives.\n"
    beside = {Trait.LOSSES: ("evaluations", ""), Trait.VOUCHED: ("", "a server without kit")}
    yield "| Trait | needed by | taken away by |\n|---|---|---|"
    parts = list(stated())
    for trait in Trait:
        needed = [each for each in parts if trait in each.needs]
        taken = [each for each in parts if trait in each.removes]
        cells = (_named(each) or also for each, also in zip((needed, taken), beside.get(trait, ("", "")), strict=True))
        yield f"| {trait[0].upper()}{trait[1:]} | {' | '.join(cells)} |"


def stated() -> Iterator[Stated]:
    """What every setting, rule, method and server optimizer states, of open settings for one value each."""
    from plait.adapters.methods import METHODS
    from plait.aggregation import OPTIMIZERS, method_stated, optimizer_stated, rule_stated
    from plait.config import RunConfig
    from plait.flower import ALL_RULES

    plain = RunConfig()
    for name, field in type(plain).model_fields.items():
        values = (True,) if field.annotation is bool else _VALUES.get(name) or get_args(field.annotation)
        for value in values:
            given = {name: value}
            yield from plain.model_copy(update=given).stated()
    yield from map(rule_stated, ALL_RULES.values())
    yield from map(method_stated, METHODS.values())
    yield from map(optimizer_stated, OPTIMIZERS.values())


# Of settings that are not one of a few words.
_VALUES: Mapping[str, tuple[object, ...]] = {
    "clients_per_round": (8,), "deadline_s": (60.0,),
    "fleet": ("FILE",), "norm_bound": ("10",), "dropout": (0.1,),
    "client_ranks": ("2,4",), "labels": ("a,b",), "trainer": ("MODULE:FUNCTION",), "personalize": (0.35,),
    "judge_part": (200,),
    "loss": ("MODULE:FUNCTION",), "objective": ("dpo", "grpo:reward=MODULE:FUNCTION"), "device": ("cuda:0,cuda:1",),
    "eval_clients": (8,), "rounds_mode": ("async",),
    "reference": ("local",), "max_grad_norm": (2.0,),
}  # fmt: skip


def _named(parts: list[Stated]) -> str:
    """The parts by key, each with the words that it may be."""
    named: dict[str, dict[str, None]] = {}
    for each in parts:
        word = str(each.value).partition(":")[0]
        is_one = each.value is not True and re.fullmatch("[a-z][a-z_0-9]*", word)
        named.setdefault(each.key, {}).update({word: None} if is_one else {})
    return ", ".join(f"`{key}` {', '.join(words)}".strip() for key, words in named.items())


def rules() -> Iterator[str]:
    """The aggregation rules."""
    from plait.flower import ALL_RULES
    from plait.settings.choice import options_of

    yield "# Rules\n"
    yield "The aggregation rules, for `--rule`, and their options. *Exactness* compares the product B A after a round"
    yield "with the weighted mean of the clients' products. *Linear* rules need only the weighted sum of the deltas.\n"
    yield "| Rule | Computes | Exactness | Linear | Source |\n|---|---|---|---|---|"
    for rule in ALL_RULES.values():
        yield (
            f"| `{rule.name}` | {cell(rule.computes)} | {rule.exactness.value} | {'yes' if rule.linear else ''} "
            f"| {cell(rule.title)} |"
        )
    yield "\n## Options\n\n| Rule | Option | Default | |\n|---|---|---|---|"
    for rule in ALL_RULES.values():
        for option in options_of(rule.algorithm):
            yield f"| `{rule.name}` | `{option.name}` | `{option.default}` | {cell(option.description)} |"


def methods() -> Iterator[str]:
    """The adapter methods, as ``plait simulate --method list`` has them."""
    from plait.adapters.methods import METHODS

    yield "# Methods\n"
    yield "The adapter methods, for `--method`: what clients send and what they keep.\n"
    yield "| Method | What is averaged | Never sent | Learning rate with `--trainer`, a reward or `--dp` | Source |"
    yield "|---|---|---|---|---|"
    for method in METHODS.values():
        yield (
            f"| `{method.name}` | {cell(method.averages)} | {cell(method.kept)} | {method.learning_rate:g} "
            f"| {cell(method.title)} |"
        )


def cell(text: str) -> str:
    """Text as a cell of a table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")

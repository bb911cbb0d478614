"""Whether the installed transformers and peft match, by transformers' own requirement."""

from __future__ import annotations

from importlib.metadata import version

from packaging.requirements import Requirement


def newer_peft_wanted() -> str | None:
    """Requirement of transformers and the installed version, if that is older; None if they match.

    transformers itself reports it only when one of its adapter methods is called.
    """
    from transformers.dependency_versions_table import deps

    asked = Requirement(deps.get("peft", "peft"))
    there = version("peft")
    if asked.specifier.contains(there, prereleases=True):
        return None
    return f"transformers {version('transformers')} asks for {asked}, peft is {there}"

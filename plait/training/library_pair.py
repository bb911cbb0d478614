"""Whether the installed transformers and peft go together, by what transformers itself asks for."""

from __future__ import annotations

from importlib.metadata import version

from packaging.requirements import Requirement


def newer_peft_wanted() -> str | None:
    """What transformers asks for and what there is, where that is older; None where they go together.

    transformers says so itself only when one of its adapter methods is called.
    """
    from transformers.dependency_versions_table import deps

    asked = Requirement(deps.get("peft", "peft"))
    there = version("peft")
    if asked.specifier.contains(there, prereleases=True):
        return None
    return f"transformers {version('transformers')} asks for {asked}, peft is {there}"

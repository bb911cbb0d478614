"""Settings of who hears of the run while it lasts."""

from __future__ import annotations

from typing import ClassVar

from plait.settings.table import Table


class Reporting(Table):
    """Who hears of the run while it lasts."""

    table: ClassVar[str] = "reporting"
    heading: ClassVar[str] = "Reporting"

    callbacks: str = ""
    """your own functions, called with every event of the run, which they may end; separated by commas: MODULE:NAME,
    with options MODULE:NAME:OPTION=VALUE
    """
    publish: str = ""
    """also publish each round's adapter: to a directory, to a running vLLM (address; key in VLLM_API_KEY), or to both,
    separated by a comma"""

"""plait: federated fine-tuning of language models by low-rank adapters.

The names below are the public API. Each is loaded when it is first used, so ``import plait`` is quick and brings
neither torch nor pandas along.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.program import Client
    from plait.aggregation.own_rule import Updates, rule
    from plait.aggregation.rule import RoundContext
    from plait.api.evaluate import EvaluationResult, evaluate
    from plait.api.export import Export, export
    from plait.api.result import Result, open_run
    from plait.api.simulate import resume, simulate
    from plait.errors import PlaitError
    from plait.ledger.events import Event
    from plait.rounds.callbacks import Callback, EarlyStopping, Stop
    from plait.studies.comparison import Comparison, compare
    from server.program import Server

__version__ = "0.1.0"

__all__ = [
    "Callback",
    "Client",
    "Comparison",
    "EarlyStopping",
    "EvaluationResult",
    "Event",
    "Export",
    "PlaitError",
    "Result",
    "RoundContext",
    "Server",
    "Stop",
    "Updates",
    "__version__",
    "compare",
    "evaluate",
    "export",
    "open_run",
    "resume",
    "rule",
    "simulate",
]

# The module of each public name; the imports above tell type checkers the same.
_HOMES: Mapping[str, str] = {
    "Callback": "plait.rounds.callbacks",
    "Client": "client.program",
    "Comparison": "plait.studies.comparison",
    "EarlyStopping": "plait.rounds.callbacks",
    "EvaluationResult": "plait.api.evaluate",
    "Event": "plait.ledger.events",
    "Export": "plait.api.export",
    "PlaitError": "plait.errors",
    "Result": "plait.api.result",
    "RoundContext": "plait.aggregation.rule",
    "Server": "server.program",
    "Stop": "plait.rounds.callbacks",
    "Updates": "plait.aggregation.own_rule",
    "compare": "plait.studies.comparison",
    "evaluate": "plait.api.evaluate",
    "export": "plait.api.export",
    "open_run": "plait.api.result",
    "resume": "plait.api.simulate",
    "rule": "plait.aggregation.own_rule",
    "simulate": "plait.api.simulate",
}


# Type checkers have the imports above, and refuse what is not among them.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'plait' has no attribute {name!r}")
        if _HOMES[name].startswith(("server.", "client.")):
            import_module("plait.apps").bind_apps()
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

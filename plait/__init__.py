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
    from plait.compress.broadcaster import Broadcaster, Receiver
    from plait.compress.message import Compressor, decompress
    from plait.errors import PlaitError
    from plait.ledger.events import Event
    from plait.rounds.callbacks import Callback, EarlyStopping, Stop
    from plait.studies.comparison import Comparison, compare
    from server.program import Server

__version__ = "0.1.0"

__all__ = [
    "Broadcaster",
    "Callback",
    "Client",
    "Comparison",
    "Compressor",
    "EarlyStopping",
    "EvaluationResult",
    "Event",
    "Export",
    "PlaitError",
    "Receiver",
    "Result",
    "RoundContext",
    "Server",
    "Stop",
    "Updates",
    "__version__",
    "compare",
    "decompress",
    "evaluate",
    "export",
    "open_run",
    "resume",
    "rule",
    "simulate",
]

# The public names of each module; type checkers read the imports above.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "client.program": ("Client",),
    "plait.aggregation.own_rule": ("Updates", "rule"),
    "plait.aggregation.rule": ("RoundContext",),
    "plait.api.evaluate": ("EvaluationResult", "evaluate"),
    "plait.api.export": ("Export", "export"),
    "plait.api.result": ("Result", "open_run"),
    "plait.api.simulate": ("resume", "simulate"),
    "plait.compress.broadcaster": ("Broadcaster", "Receiver"),
    "plait.compress.message": ("Compressor", "decompress"),
    "plait.errors": ("PlaitError",),
    "plait.ledger.events": ("Event",),
    "plait.rounds.callbacks": ("Callback", "EarlyStopping", "Stop"),
    "plait.studies.comparison": ("Comparison", "compare"),
    "server.program": ("Server",),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


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

"""Export for serving: an adapter as a PEFT directory, merged weights, GGUF, for vLLM and SGLang, for Ollama."""

from plait.export.hub import check_repository, push_to_hub
from plait.export.outlets import Outlets
from plait.export.publish import load_into_vllm, publish
from plait.export.request import Command, ExportRequest, Float, Written
from plait.export.source import Source, open_source
from plait.export.targets import TARGETS, Exported, check_target, export

__all__ = [
    "TARGETS",
    "Command",
    "ExportRequest",
    "Exported",
    "Float",
    "Outlets",
    "Source",
    "Written",
    "check_repository",
    "check_target",
    "export",
    "load_into_vllm",
    "open_source",
    "publish",
    "push_to_hub",
]

"""Export for serving: an adapter as a PEFT directory, merged weights, GGUF, for vLLM and SGLang, for Ollama."""

from plait.exporting.hub import check_repository, push_to_hub
from plait.exporting.outlets import Outlets
from plait.exporting.publish import load_into_vllm, publish
from plait.exporting.request import Command, ExportRequest, Float, Written
from plait.exporting.source import Source, open_source
from plait.exporting.targets import TARGETS, Exported, check_target, export

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

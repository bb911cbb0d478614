"""Exports: a run's adapter in the forms that others read."""

from plait.feature import Feature

FEATURE = Feature(
    name="exports",
    help="adapters for other programs: PEFT, merged weights, GGUF, vLLM, Ollama, the hub",
    verbs={"export": "plait.features.exports.export_verb:export"},
    names={
        "Export": "plait.features.exports.export:Export",
        "export": "plait.features.exports.export:export",
    },
)

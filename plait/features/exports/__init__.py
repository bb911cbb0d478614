"""Exports: a run's adapter in the forms that others read, and adapters merged into one."""

from plait.feature import Feature

FEATURE = Feature(
    name="exports",
    afterwards="plait.features.exports.afterwards:afterwards",
    help="adapters for other programs: PEFT, merged weights, GGUF, vLLM, Ollama, the hub",
    verbs={
        "export": "plait.features.exports.export_verb:export",
        "merge": "plait.features.exports.merge_verb:merge",
    },
    names={
        "Export": "plait.features.exports.export:Export",
        "export": "plait.features.exports.export:export",
    },
)

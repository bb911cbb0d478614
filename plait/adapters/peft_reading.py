"""PEFT directories, read from anybody, with a PeerError for what is invalid; no pickle is ever read."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from plait.adapters.method import in_base
from plait.adapters.peft import CONFIG_FILE, PROVENANCE, WEIGHTS_FILE
from plait.adapters.peft_settings import TYPE_OF_TASK, checked_settings
from plait.adapters.safetensors import parse_object, read_header_of, read_safetensors, shown
from plait.adapters.spec import ORIGINS, PLACE_KEYS, AdapterSpec, Parent, is_fingerprint, parents_from
from plait.adapters.state import AdapterState, Float32, Layout
from plait.errors import PeerError, check_format
from plait.system.files import failures_to, open_plain
from plait.system.text import Json

_PICKLE_FILE = "adapter_model.bin"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_TEXT_CHARACTERS = 4096
_TASKS = {name: task for task, name in TYPE_OF_TASK.items()}
# Where a prompt's words came from; after training its tensors are sufficient.
_PROMPT_TEXT_KEYS = ("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs")
# With these, LoRA's factors start elsewhere and the base is unchanged.
_OTHER_DRAWS = ("eva", "orthogonal", "mica", "lora_ga")
# Settings that change the meaning of the tensors: another value of one of these is another adapter.
_MEANING_KEYS = ("peft_type", "lora_alpha", "use_rslora", "use_dora")


@dataclass(frozen=True)
class Provenance:
    """What plait stores with the tensors and PEFT has no place for; digests are hexadecimal."""

    base_fingerprint: str
    method: str
    labels: tuple[str, ...]
    init_seed: int
    spec_digest: str
    parents: tuple[Parent, ...] = ()
    built_in: str | None = None


@dataclass(frozen=True)
class PeftAdapter:
    """The content of a PEFT directory: checked settings and the keys that name a place; `provenance` is of plait's."""

    config: Mapping[str, Json]
    tensors: Mapping[str, Float32]
    base_name: str | None
    revision: str | None
    provenance: Provenance | None

    @property
    def base_here(self) -> str | None:
        """The name by which `locate_base` finds the base, if given."""
        if self.provenance and self.provenance.built_in:
            return self.provenance.built_in
        return f"{self.base_name}@{self.revision}" if self.base_name and self.revision else self.base_name

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the base that the adapter was trained on, if plait stored it."""
        return self.provenance.base_fingerprint if self.provenance else None

    @cached_property
    def state(self) -> AdapterState:
        """Its values; by their digest a ledger names an adapter."""
        layout = Layout.of({name: tensor.shape for name, tensor in self.tensors.items()})
        return AdapterState.from_tensors(layout, self.tensors)

    def spec(self) -> AdapterSpec:
        """The spec of this adapter, derived from its configuration and its tensors."""
        task_type = self.config.get("task_type")
        task = _TASKS.get(task_type) if isinstance(task_type, str) else None
        if task is None:
            raise PeerError(f"task_type of the adapter is {shown(task_type)}, expected one of {', '.join(_TASKS)}")
        spec = AdapterSpec(
            method=self.provenance.method if self.provenance else str(self.config["peft_type"]).lower(),
            peft_config={key: value for key, value in self.config.items() if key not in PLACE_KEYS},
            task=task,
            labels=self.provenance.labels if self.provenance else (),
            layout=self.state.layout,
            init_seed=self.provenance.init_seed if self.provenance else 0,
        )
        if self.provenance and self.provenance.spec_digest != spec.digest.hex():
            raise PeerError(
                f"digest of the adapter's spec is {spec.digest.hex()}, expected {self.provenance.spec_digest}: "
                f"{CONFIG_FILE} is not the one that was written with {WEIGHTS_FILE}"
            )
        return spec


def load_peft_directory(path: Path) -> PeftAdapter:
    """Read the adapter in `path`, which is not trusted.

    Raises:
        PeerError: a file is missing or invalid, the tensors are pickled, or the configuration has a key, type or value
            that `checked_settings` does not allow.
    """
    weights = path / WEIGHTS_FILE
    if not weights.is_file() and (path / _PICKLE_FILE).is_file():
        raise PeerError(
            f"'{path}' holds only {_PICKLE_FILE}, which can run code when loaded, expected {WEIGHTS_FILE}: "
            "if you trust it, load it with PEFT and save it again"
        )
    config = _read_config(path / CONFIG_FILE)
    return PeftAdapter(
        config=config,
        tensors=read_safetensors(weights),
        base_name=_optional_text(config, "base_model_name_or_path"),
        revision=_optional_text(config, "revision"),
        provenance=_read_provenance(weights),
    )


def load_state(path: Path, spec: AdapterSpec) -> AdapterState:
    """The values of the adapter in `path`, which must match `spec`."""
    adapter = load_peft_directory(path)
    for key in _MEANING_KEYS:
        got, expected = adapter.config.get(key), spec.peft_config.get(key)
        # Null, false and empty all mean that the feature is off.
        if (got or expected) and got != expected:
            raise PeerError(f"{key} of the adapter in '{path}' is {shown(got)}, expected {shown(expected)}")
    return AdapterState.from_tensors(spec.layout, adapter.tensors)


def _read_config(path: Path) -> dict[str, Json]:
    with failures_to(f"read '{path}'", PeerError), open_plain(path) as file:
        data = file.read(_MAX_CONFIG_BYTES + 1)
    config = parse_object(data, what=f"'{path}'", max_bytes=_MAX_CONFIG_BYTES)
    _text(config, "peft_type")
    places = {key: config.pop(key) for key in PLACE_KEYS & config.keys()}
    return {**checked_settings(_as_trained(config, path.with_name(WEIGHTS_FILE)), what=f"'{path}'"), **places}


def _as_trained(config: Mapping[str, Json], weights: Path) -> dict[str, Json]:
    """The settings of an adapter whose values are there: where it began no longer counts, and which modules it has."""
    settings = dict(config)
    if settings.get("prompt_tuning_init") == "TEXT":
        settings = {key: value for key, value in settings.items() if key not in _PROMPT_TEXT_KEYS}
    if settings.get("init_lora_weights") in _OTHER_DRAWS:
        del settings["init_lora_weights"]
    if isinstance(targets := settings.get("target_modules"), str) and targets != "all-linear":
        # A regular expression. It is not run: the tensors are named by the modules that it matched.
        parts = (in_base(name).partition(".lora_") for name in read_header_of(weights).tensors)
        settings["target_modules"] = list[Json](sorted({module for module, found, _ in parts if found})) or targets
    return settings


def _read_provenance(weights: Path) -> Provenance | None:
    text = read_header_of(weights).metadata.get(PROVENANCE)
    if text is None:
        return None
    facts = parse_object(text.encode(errors="replace"), what="provenance", max_bytes=_MAX_CONFIG_BYTES)
    # An adapter, a kit and settings state no format as long as it is the first.
    check_format("the adapter", facts.get("format", 1), 1)
    fingerprint, seed, labels = _text(facts, "base_fingerprint"), facts.get("init_seed"), facts.get("labels")
    built_in = facts.get("built_in")
    if not is_fingerprint(fingerprint):
        raise PeerError(f"base_fingerprint of the adapter is {shown(fingerprint)}, expected 64 hexadecimal digits")
    if type(seed) is not int:
        raise PeerError(f"init_seed of the adapter is {shown(seed)}, expected a whole number")
    if not isinstance(labels, list):
        raise PeerError(f"labels of the adapter are {shown(labels)}, expected a list of names")
    return Provenance(
        base_fingerprint=fingerprint,
        method=_text(facts, "method"),
        labels=tuple(_plain(label, "a label") for label in labels),
        init_seed=seed,
        spec_digest=_text(facts, "spec_digest"),
        parents=parents_from(facts.get("parents")),
        # A name that is new here is ignored; the base's own name remains.
        built_in=built_in if isinstance(built_in, str) and built_in in ORIGINS else None,
    )


def _text(fields: Mapping[str, Json], key: str) -> str:
    return _plain(fields.get(key), key)


def _optional_text(fields: Mapping[str, Json], key: str) -> str | None:
    # PEFT itself writes both null and "" where it knows no base.
    return _text(fields, key) if fields.get(key) not in (None, "") else None


def _plain(value: Json, what: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value) > _MAX_TEXT_CHARACTERS:
        raise PeerError(
            f"{what} of the adapter is {shown(value)}, expected at most {_MAX_TEXT_CHARACTERS} printable characters"
        )
    return value

"""What a run's directory may cause: only what this command names again.

Code, data, files, addresses, trackers and bases to download that its settings name are not touched otherwise.
"""

import shlex
from collections.abc import Collection, Mapping, Sequence

from plait.api.serving import Serving
from plait.config import RunConfig
from plait.errors import ConfigError
from plait.plugins import Kind, admit, is_named
from plait.rounds.run_directory import RunDirectory, recorded_settings
from plait.settings.choice import parse_choice
from plait.simulation.scheme import SCHEMES
from plait.training.bases import is_on_disk

# Settings that name files, places or servers.
_LEADS_OUT = ("data", "publish", "callbacks", "fleet", "init-adapter")
UNUSED = ("publish", "callbacks", "fleet")
"""Those of them that decide nothing of what a run computes."""
_OWN_DATA = "stdlib"
_MEMORY = "memory:"
_KEYS = {
    Kind.CODEC: "bits",
    Kind.DATASET: "data",
    Kind.REWARD: "objective",
    Kind.METRIC: "eval-metrics",
    Kind.CALLBACK: "callbacks",
}


def admitted_settings(
    directory: RunDirectory,
    allowed: Sequence[str] = (),
    *,
    without: Collection[str] = (),
    serving: Serving | None = None,
) -> RunConfig:
    """A run's recorded settings, once the operator has named what lies outside; its plug-ins may then be imported.

    What the operator names again is `allowed`, each as ``KEY=VALUE``; keys that the caller does not use are `without`.

    Raises:
        ConfigError: one names what the other does not; the message has the options to add.
    """
    settings = recorded_settings(directory)
    named = {key: value for key, value in _named(settings, serving).items() if key not in without}
    given: set[str] = set()
    for text in allowed:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--allow is '{text}', expected KEY=VALUE, such as rule=my_rules:mine")
        if named.get(key) != value:
            has = f"{key}={named[key]}" if key in named else f"no {key} to allow"
            raise ConfigError(f"--allow is '{text}', but '{directory.path}' has {has}")
        given.add(key)
    if missing := {key: value for key, value in named.items() if key not in given}:
        raise ConfigError(
            f"'{directory.path}' names what lies outside it, and plait uses nothing of that which you do not name "
            f"again; if you trust it, add {options(missing, 'allow')}"
        )
    admit(*(text for key, text in _plugins(settings) if key in given))
    return settings


def how_to_resume(settings: RunConfig, serving: Serving | None = None, *, page: str = "") -> str:
    """The command that continues a run with its live page, if any, and names again what lies outside its directory."""
    named = options(_named(settings, serving), "allow"), options({"page": page}) if page else ""
    return " ".join(filter(None, ("plait resume", shlex.quote(settings.out), *named)))


def _named(settings: RunConfig, serving: Serving | None) -> dict[str, str]:
    return leads_out(settings) | (serving.named if serving else {})


def leads_out(settings: RunConfig) -> dict[str, str]:
    """The settings that name code, files, places, servers or a base to download, by key."""
    table = {key: str(value) for key, value in settings.to_table().items()}
    found = {key: table[key] for key in _LEADS_OUT if table.get(key) and not table[key].startswith(_MEMORY)}
    if settings.data == _OWN_DATA:
        found.pop("data")
    found |= {key: table[key] for key, _ in _plugins(settings)}
    if not is_on_disk(settings.base):
        found["base"] = settings.base
    return found


def _plugins(settings: RunConfig) -> list[tuple[str, str]]:
    """The parts that are not plait's own: the key of each, and its name with its options."""
    found: list[tuple[str, str]] = []
    for kind, text in settings.parts:
        if kind is Kind.PARTITION and text.partition(":")[0].strip().lower() in SCHEMES:
            continue
        if text and is_named(kind, parse_choice(text)[0]):
            found.append((_KEYS.get(kind, kind.value.replace(" ", "-")), text))
    return found


def options(named: Mapping[str, str], option: str = "") -> str:
    """The options that name these settings: ``--allow KEY=VALUE`` each, or ``--KEY VALUE`` without a name."""
    pairs = ((option, f"{key}={value}") if option else (key, value) for key, value in named.items())
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in pairs)

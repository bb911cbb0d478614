"""Limits what an untrusted run directory can cause: only what its operator has named.

Settings that lead out of the directory (code, data, files, addresses to publish to or serve on, trackers, a base to
download) hold if this user's own process began the run on this machine (`plait.own`), or if they are named again.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from plait.api.serving import Serving, served_from_here
from plait.choice import parse_choice
from plait.config import RunConfig, admit_features
from plait.errors import ConfigError
from plait.known_features import own_features
from plait.plugins import Kind, admit, is_named
from plait.rounds.recorded_settings import began_here, recorded_settings
from plait.rounds.run_directory import RunDirectory

# Settings that name files, places or servers, and the values that name none.
_LEADS_OUT: Mapping[str, tuple[str, ...]] = {
    "data": ("", "stdlib"),
    "publish": ("",),
    "callbacks": ("",),
}
_MEMORY = "memory:"
_KEYS: dict[Kind, str] = {
    Kind.CODEC: "wire",
    Kind.DATASET: "data",
    Kind.REWARD: "objective",
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

    Args:
        allowed: what the operator names again, each as ``KEY=VALUE``.
        without: keys that the caller does not use, so that they need not be named.
        serving: how the run is to be served, if its directory says so.

    Raises:
        ConfigError: the settings name what the operator did not, or the operator names what they do not;
            the message has the options to add.
        PeerError: the ledger is broken.
    """
    admit_features_of(allowed)
    settings = recorded_settings(directory)
    named = {key: value for key, value in leads_out(settings).items() if key not in without}
    own = began_here(directory)
    missing = dict[str, str]() if own else dict(named)
    if serving is not None:
        named |= serving.named
        missing |= {} if served_from_here(directory.server) else serving.named
    given: set[str] = set()
    for text in allowed:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--allow is '{text}', expected KEY=VALUE, such as rule=my_rules:mine")
        if named.get(key) != value:
            has = f"{key}={named[key]}" if key in named else f"no {key} to allow"
            raise ConfigError(f"--allow is '{text}', but '{directory.path}' has {has}")
        missing.pop(key, None)
        given.add(key)
    if missing:
        raise ConfigError(
            f"you did not start '{directory.path}' on this machine, so plait uses nothing outside it that you do not "
            f"name again; if you trust it, add {options(missing, 'allow')}"
        )
    admit(*(text for key, text in _plugins(settings) if own or key in given))
    return settings


def keys_of_features(*, starts: bool = True) -> tuple[str, ...]:
    """The settings of plait's own features that lead out of a directory, for callers that start none of them.

    Args:
        starts: whether also those of what a run starts from, which one that recomputes it needs.
    """
    found = (feature for feature in own_features().values() if starts or not feature.starts)
    return tuple(name.replace("_", "-") for feature in found for name in feature.leads_out)


def admit_features_of(allowed: Sequence[str]) -> None:
    """Allow outsiders' features whose settings the operator names again, each as ``KEY=VALUE``."""
    admit_features(dict.fromkeys(text.partition("=")[0] for text in allowed))


def admitted_objective(directory: RunDirectory) -> str:
    """A run's objective, which is the user's own only if the run began here; empty if only a run can measure by it.

    Raises:
        ConfigError: another's run names code as its objective.
        PeerError: the ledger is broken.
    """
    settings = recorded_settings(directory)
    if objective := leads_out(settings).get("objective", ""):
        if not began_here(directory):
            raise ConfigError(
                f"you did not start '{directory.path}' on this machine, and its objective is code; if you trust it, "
                f"add {options({'objective': objective})}"
            )
        admit(objective)
    return "" if settings.learned.completions else settings.objective


def leads_out(settings: RunConfig) -> dict[str, str]:
    """The settings that name code, files, places, servers or a base to download, by key."""
    table = {key: str(value) for key, value in settings.to_table().items()}
    found = {
        key: table[key]
        for key, harmless in _LEADS_OUT.items()
        if table[key] not in harmless and not table[key].startswith(_MEMORY)
    }
    for feature in settings.features:
        spelled = {name.replace("_", "-"): harmless for name, harmless in feature.leads_out.items()}
        found |= {key: table[key] for key, harmless in spelled.items() if table[key] not in harmless}
        if not feature.is_own:
            found |= {key: table[key] for key in (name.replace("_", "-") for name in feature.fields)}
    found |= {key: table[key] for key, _ in _plugins(settings)}
    if not _is_at_hand(settings):
        found["base"] = settings.base
    return found


def _plugins(settings: RunConfig) -> list[tuple[str, str]]:
    """The parts that are not plait's own: the key of each, and its name with its options."""
    from plait.simulation.scheme import SCHEMES

    found: list[tuple[str, str]] = []
    parts = {kind: name.replace("_", "-") for feature in settings.features for name, kind in feature.parts.items()}
    for kind, text in settings.parts:
        if kind is Kind.FEATURE:
            # Its settings are named instead.
            continue
        if kind is Kind.PARTITION and text.partition(":")[0].strip().lower() in SCHEMES:
            continue
        if text and is_named(kind, parse_choice(text)[0]):
            found.append(((_KEYS | parts).get(kind, kind.value.replace(" ", "-")), text))
    return found


def options(named: Mapping[str, str], option: str = "") -> str:
    """The options that name these settings: ``--allow KEY=VALUE`` each, or ``--KEY VALUE`` without a name."""
    if option:
        return " ".join(f"--{option} {shlex.quote(f'{key}={value}')}" for key, value in named.items())
    return " ".join(f"--{key} {shlex.quote(value)}" for key, value in named.items())


def _is_at_hand(settings: RunConfig) -> bool:
    from plait.training.bases import is_on_disk

    return is_on_disk(settings.base)

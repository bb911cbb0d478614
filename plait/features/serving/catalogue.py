"""The models of a server: the base under its own name, and adapters that are loaded and unloaded while requests run.

A request keeps the adapter that it started with, so replacing or unloading one never changes a text midway. Knows no
HTTP and no torch.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.adapters import Task
from plait.adapters.bottleneck import is_bottleneck
from plait.adapters.bottleneck_layout import bottlenecks_of
from plait.errors import BaseMismatchError, ConfigError
from plait.exporting.base_fit import check_bottlenecks, check_fit
from plait.exporting.plain_lora import plain_lora
from plait.exporting.source import Source, open_source

if TYPE_CHECKING:
    # At run time it would import torch.
    from plait.training.bases import LocatedBase
    from plait.training.export_weights import BaseShape
    from plait.training.serving import Engine, ServedAdapter

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:-]{0,127}")


@dataclass(frozen=True)
class Model:
    """A model that requests can name.

    Attributes:
        adapter: the adapter on the base, or None for the base alone.
        place: directory that it was read from.
        parent: name of the base, for an adapter.
        digest: SHA-256 of the adapter's file, empty for the base.
        since_s: when it was loaded, in seconds since 1970.
    """

    name: str
    adapter: ServedAdapter | None
    place: str
    parent: str | None
    digest: str
    since_s: int


@dataclass(eq=False)
class Catalogue:
    """The models of one engine.

    Attributes:
        base_name: the base's model name in requests.
    """

    engine: Engine
    base: LocatedBase
    shape: BaseShape
    _: KW_ONLY
    base_name: str

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._models = {
            self.base_name: Model(self.base_name, None, str(self.base.directory), None, "", int(time.time()))
        }

    def models(self) -> tuple[Model, ...]:
        """All models, the base first."""
        with self._lock:
            return tuple(self._models.values())

    def find(self, name: str) -> Model | None:
        """The model of that name."""
        with self._lock:
            return self._models.get(name)

    def load(self, name: str, place: Path, *, replace: bool = False) -> Model:
        """Read an adapter and serve it from now on.

        Raises:
            ConfigError: the name is invalid or taken, or the adapter is neither plain LoRA nor made of bottlenecks.
            BaseMismatchError: it belongs to another base.
            PeerError: the directory is not valid.
            MachineError: it does not fit into memory.
        """
        self.check_name(name, replace=replace)
        source = open_source(place, base=str(self.base.directory))
        if is_bottleneck(source.spec) and source.spec.task is Task.CAUSAL_LM:
            check_bottlenecks(bottlenecks_of(source.spec.layout), self.shape, base=self.base_name)
        else:
            geometry = plain_lora(source, use="plait serve", instead="export --to merged, and serve that as --base")
            check_fit(geometry, self.shape, base=self.base_name)
        adapter = self.engine.place(name, source.spec, source.state)
        model = Model(name, adapter, str(place), self.base_name, source.digest, int(time.time()))
        with self._lock:
            # Another request may have been faster.
            if name in self._models and not replace:
                raise ConfigError(f"the name '{name}' has already been loaded: unload it first, or replace it")
            self._models[name] = model
        return model

    def unload(self, name: str) -> bool:
        """Stop serving the adapter of that name; running requests finish with it. False if there is none.

        Raises:
            ConfigError: it is the base.
        """
        with self._lock:
            if name == self.base_name:
                raise ConfigError(f"'{name}' is the base, which stays as long as the server runs")
            return self._models.pop(name, None) is not None

    def check_name(self, name: str, *, replace: bool = False) -> None:
        """Check whether an adapter can have this name.

        Raises:
            ConfigError: it is invalid or taken.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"name of the adapter is {name!r}, expected letters, digits, dots, dashes and slashes")
        with self._lock:
            if name == self.base_name:
                raise ConfigError(f"'{name}' is the name of the base, expected another name for an adapter")
            if name in self._models and not replace:
                raise ConfigError(f"the name '{name}' has already been loaded: unload it first, or replace it")


def common_base(sources: dict[str, Source]) -> str:
    """The name of the base that all of these adapters belong to.

    Args:
        sources: by their model names, at least one.

    Raises:
        BaseMismatchError: they belong to several.
    """
    (first, one), *others = sources.items()
    for name, source in others:
        if source.base.fingerprint != one.base.fingerprint:
            raise BaseMismatchError(
                f"adapter '{name}' belongs to base {source.base.fingerprint[:16]}, "
                f"expected {one.base.fingerprint[:16]}, the base of '{first}': serve each base with a separate command"
            )
    return one.base.here

"""Put off two imports of transformers and PEFT that plait hardly ever needs: they take 80 MiB of a client's memory.

transformers imports `scipy.optimize` for the losses of object detection, PEFT imports bitsandbytes, which imports
torch's compiler, even where no layer is of it. Each is imported once something of it is used. Knows no model.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import cast


class _Later(ModuleType):
    """Stands for a module until something in it is used."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


class _LaterFunctions(ModuleType):
    """Stands for a module of functions until one is called."""

    def __getattr__(self, name: str) -> Callable[..., object]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: object, **named: object) -> object:
            return getattr(importlib.import_module(self.__name__), name)(*args, **named)

        return call


# By the module that imports it.
_STAND_INS = {
    "transformers.loss.loss_utils": _LaterFunctions("scipy.optimize"),
    "peft.helpers": _Later("bitsandbytes"),
}


class _Meanwhile(Loader):
    """Runs a module's code while another module is stood for."""

    def __init__(self, loader: Loader, stand_in: ModuleType) -> None:
        self._loader, self._stand_in = loader, stand_in

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        cast("ModuleSpec", module.__spec__).loader = self._loader
        name = self._stand_in.__name__
        # What is not installed must not seem to be.
        if name in sys.modules or find_spec(name.partition(".")[0]) is None:
            self._loader.exec_module(module)
            return
        sys.modules[name] = self._stand_in
        try:
            self._loader.exec_module(module)
        finally:
            if sys.modules.get(name) is self._stand_in:
                del sys.modules[name]


class _Finder(MetaPathFinder):
    """Finds the importing modules as the other finders do."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        stand_in = _STAND_INS.get(fullname)
        if stand_in is None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Meanwhile(spec.loader, stand_in)
        return spec


def put_off() -> None:
    """From now on, and for modules that are not imported yet."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


_asking = threading.RLock()


@contextmanager
def without_bitsandbytes() -> Generator[None]:
    """Meanwhile PEFT asks no layer whether it is bitsandbytes', unless some may be: it would import it to ask.

    Threads take turns: what PEFT believes meanwhile is the whole process's.
    """
    with _asking:
        if "bitsandbytes" in sys.modules:
            yield
            return
        from peft.import_utils import is_bnb_4bit_available, is_bnb_available

        answers = (is_bnb_available, is_bnb_4bit_available)
        sys.modules["bitsandbytes"] = cast("ModuleType", None)  # as Python marks what cannot be imported
        try:
            for answer in answers:
                answer.cache_clear()
                answer()
        finally:
            with suppress(KeyError):
                del sys.modules["bitsandbytes"]
        try:
            yield
        finally:
            for answer in answers:
                answer.cache_clear()

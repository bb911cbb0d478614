"""A model and a tokenizer that a Python program holds, as a base: written once into the cache, under its fingerprint.

A run needs its base again to be resumed, exported or served, and a client of a deployment needs the same one, so a base
is always a directory. The objects themselves are not changed.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from plait.adapters import fingerprint_base
from plait.data.cache import cache_directory
from plait.errors import ConfigError, MachineError
from plait.files import cannot_write, directory_written_aside, is_ours, make_private_directory
from plait.training.bases import quiet_libraries

_DIGITS = 16


def kept_base(model: object, tokenizer: object) -> Path:
    """The directory of a model and its tokenizer, which is written if the cache does not have it.

    Raises:
        ConfigError: from these objects no base can be made that others can load; the message says why.
        MachineError: the cache cannot be written.
    """
    if isinstance(model, PeftModel) or getattr(model, "_hf_peft_config_loaded", False):
        raise ConfigError(
            "base is a model with an adapter on it, expected the plain model: load it again, and give the adapter as "
            "init_adapter"
        )
    if not isinstance(model, PreTrainedModel):
        raise ConfigError(f"base is a {type(model).__name__}, expected a name, a directory or a model of transformers")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        got = "missing" if tokenizer is None else f"a {type(tokenizer).__name__}"
        raise ConfigError(f"base is a model in memory and its tokenizer is {got}, expected tokenizer=… of transformers")
    if not type(model).__module__.startswith("transformers.models."):
        raise ConfigError(
            f"base is a {type(model).__name__}, code of its own, expected a class of transformers': others could "
            f"load it only by running that code"
        )
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        raise ConfigError("base is quantised, expected its full weights (method='qlora' quantises while it trains)")
    if absent := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:
        raise ConfigError(f"base has no values for '{absent[0]}' in memory: load the whole model")
    bases = cache_directory() / "bases"
    try:
        make_private_directory(bases)
        with tempfile.TemporaryDirectory(dir=bases, prefix=".memory.") as made:
            return _stored(Path(made), bases, model, tokenizer)
    except OSError as error:
        raise cannot_write(bases, error) from error


def _stored(aside: Path, bases: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Path:
    quiet_libraries()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            model.save_pretrained(aside)
            tokenizer.save_pretrained(aside)
    except (ValueError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"base in memory cannot be written as a model directory: {reason}") from error
    target = bases / f"memory-{fingerprint_base(aside)[:_DIGITS]}"
    if is_ours(target):
        return target
    if target.exists():
        raise MachineError(f"'{target}' can be changed by others, expected a cache of your own; remove it")
    with directory_written_aside(target) as folder:
        for file in aside.iterdir():
            file.rename(folder / file.name)
    return target

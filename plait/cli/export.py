"""``plait export``: an adapter as PEFT, merged weights or GGUF, or for vLLM, SGLang or Ollama."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from plait.api.export import export as exported
from plait.cli.output import print_json


def export(
    source: Annotated[
        Path,
        typer.Argument(help="Run directory, PEFT directory, or a node's state directory of a run.", show_default=False),
    ],
    directory: Annotated[Path, typer.Argument(help="New or empty directory to write to.", show_default=False)],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="peft|merged|gguf|vllm|ollama", help="Target format or program.", show_default=False
        ),
    ],
    rank: Annotated[
        int | None,
        typer.Option("--rank", min=1, help="Give every module this rank, by the best approximation or by padding."),
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Base, if the adapter names none that is available.")] = "",
    served_base: Annotated[
        str, typer.Option("--served-base", help="Name of the base in vLLM or Ollama, if it differs.")
    ] = "",
    client: Annotated[
        str,
        typer.Option("--client", help="Export this client's personalized adapter (see --own-share of plait simulate)."),
    ] = "",
    gguf_type: Annotated[str, typer.Option("--gguf-type", metavar="f32|f16", help="Data type in a GGUF file.")] = "f32",
    push_to_hub: Annotated[
        str,
        typer.Option(
            "--push-to-hub", metavar="OWNER/NAME", help="Also upload the export, with its card, to this hub repository."
        ),
    ] = "",
    public: Annotated[
        bool, typer.Option("--public", help="Let anyone read a repository that --push-to-hub makes.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert an adapter for the program that will serve it, and print the command to serve it.

    Example: plait export runs/first --to vllm served/first
    """
    # The targets are checked there, with a hint for one that is misspelt.
    found = exported(
        source,
        directory,
        to=cast("Literal['peft', 'merged', 'gguf', 'vllm', 'ollama']", to),
        rank=rank,
        base=base or None,
        served_base=served_base,
        client=client,
        gguf_type=cast("Literal['f32', 'f16']", gguf_type),
        push_to_hub=push_to_hub,
        public=public,
        quiet=json_output,
    )
    if json_output:
        print_json(found.figures)
        return
    size = sum(found.files.values())
    sys.stdout.write(f"wrote {directory}: {len(found.files)} files, {size / 1e6:.1f} MB\n")
    if found.hub:
        sys.stdout.write(f"uploaded to {found.hub}\n")
    if found.lost:
        sys.stdout.write(f"cut to rank {found.rank}: {found.lost:.2%} of the norm of the weight change was lost\n")
    if found.base.origin.remark:
        sys.stdout.write(f"base {found.base.name}: {found.base.origin.remark}\n")
    for command in found.commands:
        sys.stdout.write(f"\n{command.purpose}:\n\n{_indented(command.text)}\n")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip("\n")

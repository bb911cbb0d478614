"""``plait export``: an adapter as PEFT, merged weights or GGUF, or for vLLM, SGLang or Ollama."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from plait.cli.output import print_json
from plait.progress import say, status


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
        bool, typer.Option("--public", help="Anybody may read a repository that --push-to-hub makes.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Convert an adapter for the program that will serve it, and print the command to serve it.

    Example: plait export runs/first --to vllm served/first
    """
    from plait.errors import ConfigError, did_you_mean
    from plait.exporting import ExportRequest, Float, check_repository, check_target, open_source
    from plait.exporting import export as write_export
    from plait.exporting import push_to_hub as upload
    from plait.exporting.personal import is_node_state, open_node, open_personal

    if gguf_type not in list(Float):
        raise ConfigError(
            f"--gguf-type is '{gguf_type}', expected {' or '.join(Float)}{did_you_mean(gguf_type, list(Float))}"
        )
    check_target(to, directory)
    if push_to_hub:
        check_repository(push_to_hub)
    elif public:
        raise ConfigError("--public is given without --push-to-hub, expected both or neither")

    def progress(text: str) -> None:
        say(text, quiet=json_output)

    if client:
        adapter = open_personal(source, client, base=base, progress=progress)
    elif is_node_state(source):
        adapter = open_node(source, base=base, progress=progress)
    else:
        adapter = open_source(source, base=base, progress=progress)
    request = ExportRequest(
        source=adapter,
        directory=directory.resolve(),
        rank=rank,
        served_base=served_base,
        gguf_float=Float(gguf_type),
    )
    with status(f"exporting {adapter.name} to {to}", quiet=json_output) as shown:
        exported = write_export(to, request, progress=shown)
    written, address = exported.written, ""
    if push_to_hub:
        with status(f"uploading to {push_to_hub}", quiet=json_output):
            address = upload(exported.directory, push_to_hub, files=exported.files, private=not public)
    if json_output:
        print_json(
            {
                "target": to,
                "directory": str(exported.directory),
                "files": dict(exported.files),
                "rank": written.rank,
                "lost": written.lost,
                "base": {"name": adapter.base.name, "fingerprint": adapter.base.fingerprint},
                "commands": {command.purpose: command.text for command in written.commands},
                "hub": address or None,
            }
        )
        return
    size = sum(exported.files.values())
    sys.stdout.write(f"wrote {directory}: {len(exported.files)} files, {size / 1e6:.1f} MB\n")
    if address:
        sys.stdout.write(f"uploaded to {address}\n")
    if written.lost:
        sys.stdout.write(f"cut to rank {written.rank}: {written.lost:.2%} of the norm of the weight change was lost\n")
    if adapter.base.origin.remark:
        sys.stdout.write(f"base {adapter.base.name}: {adapter.base.origin.remark}\n")
    for command in written.commands:
        sys.stdout.write(f"\n{command.purpose}:\n\n{_indented(command.text)}\n")


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip("\n")

"""``plait serve``: many adapters on one resident base, behind the OpenAI API. Ctrl-C ends it with exit code 0."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from plait.address import Address
from plait.errors import ConfigError
from plait.progress import say, status
from plait.rounds.run_directory import RunDirectory


def serve(
    more: Annotated[
        list[str] | None, typer.Argument(help="More adapters, NAME=DIRECTORY.", metavar="[NAME=DIR]...")
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapters", help="An adapter, NAME=DIRECTORY; a PEFT directory or a run.", metavar="NAME=DIR"),
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option("--run", help="A run to follow; serves its newest round under the run's name.")
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Base, if the adapters name none that is available.")] = "",
    listen: Annotated[str, typer.Option("--listen", help="Address and port.")] = "127.0.0.1:8000",
    api_key: Annotated[
        str, typer.Option("--api-key", envvar="PLAIT_API_KEY", help="Key that every request must carry.")
    ] = "",
    allowed_hosts: Annotated[
        str,
        typer.Option(
            "--allowed-hosts",
            help="More host names that requests may address, separated by commas; * for any.",
            metavar="NAME,NAME",
        ),
    ] = "",
    context: Annotated[int, typer.Option("--context", min=0, help="Most tokens per text; 0 for the base's limit.")] = 0,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Texts generated at a time; more are queued.")] = 32,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16 or float16.")] = "auto",
    threads: Annotated[
        int,
        typer.Option(
            "--threads", min=0, help="CPU threads; 0 for torch's default, or one while another process uses a core."
        ),
    ] = 0,
) -> None:
    """Serve adapters on one base behind the OpenAI API, with requests for different adapters in one batch.

    Load and unload adapters with POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as with vLLM.

    Example: plait serve --adapters formal=runs/a casual=runs/b --run runs/now
    """
    named = _named([*(adapters or []), *(more or [])])
    followed = {path.resolve().name: path for path in run or []}
    doubled = sorted(named.keys() & followed.keys())
    if doubled:
        raise ConfigError(f"'{doubled[0]}' names both an adapter and a run, expected different names")
    address = Address.parse(listen, what="--listen", listening=True)
    with status("loading libraries", quiet=False):
        import uvicorn

        from plait.exporting.source import open_source
        from plait.features.serving.app import Access, make_app
        from plait.features.serving.catalogue import Catalogue, common_base
        from plait.features.serving.follow import Follower
        from plait.hosts import AllowedHosts
        from plait.training.bases import BUILT_IN, locate_base, locate_named_base, quiet_libraries
        from plait.training.device import choose_compute
        from plait.training.export_weights import describe_base
        from plait.training.serving import Engine, Limits, choose_threads

        quiet_libraries()
    from plait.adapters import Task

    readable = {name: path for name, path in {**named, **followed}.items() if name in named or _has_adapter(path)}
    sources = {name: open_source(path, base=base, progress=_say) for name, path in readable.items()}
    if not base and not sources:
        raise ConfigError("the base is missing; give --base or an adapter that names it")
    base_name = base or common_base(sources)
    where = " ".join(str(path) for path in readable.values())
    located = locate_base(base, progress=_say) if base else locate_named_base(base_name, where=where, progress=_say)
    shape = describe_base(located.directory, Task.CAUSAL_LM)
    compute = choose_compute(device, dtype)
    with address.bind() as listener:
        with status(f"loading base {base_name}", quiet=False):
            limits = Limits(rows=rows, context=context)
            engine = Engine(located.directory, compute, limits, choose_threads(threads, compute))
        shown_name = base_name if base_name in BUILT_IN or located.reference.hub_id else located.directory.name
        catalogue = Catalogue(engine, located, shape, base_name=shown_name)
        for name, path in named.items():
            catalogue.load(name, path)
        followers = [Follower(catalogue, name, path, _say) for name, path in followed.items()]
        for follower in followers:
            follower.look()
        hosts = AllowedHosts.of(address.host, allowed_hosts.split(","))
        app = make_app(engine, catalogue, Access(api_key, may_load=bool(api_key) or address.is_loopback, hosts=hosts))
        config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=3)
        # A client may connect as soon as it reads the line below: from here on connections wait to be accepted.
        listener.listen()
        shown = Address(*listener.getsockname()[:2])
        _say(f"serving {', '.join(model.name for model in catalogue.models())} on http://{shown}/v1")
        engine.start()
        for follower in followers:
            follower.start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            # The normal end of a server: uvicorn has shut down by now.
            _say("stopped")
        finally:
            for follower in followers:
                follower.close()
            engine.close()


def _named(pairs: list[str]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for pair in pairs:
        name, equals, directory = pair.partition("=")
        if not equals or not name or not directory:
            raise ConfigError(f"adapter is '{pair}', expected NAME=DIRECTORY")
        if name in named:
            raise ConfigError(f"two adapters are called '{name}', expected different names")
        named[name] = Path(directory)
    return named


def _has_adapter(run: Path) -> bool:
    return (RunDirectory(run).adapter / "adapter_config.json").is_file()


def _say(text: str) -> None:
    say(text, quiet=False)

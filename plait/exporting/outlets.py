"""Places to publish the adapter of every round during a run: a directory, a running vLLM, or both.

vLLM reads the adapter from a directory that it can also see: the one given, or ``RUN/published``. Later failures must
not cost a round, so they are returned as text.

    PLACE/round-000012/   a PEFT directory; the newest few stay, so that a server that is reading one can finish
    PLACE/latest          a symbolic link to the newest; both appear atomically
"""

import contextlib
import os
import re
import shutil
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Self

import httpx

from plait.adapters import AdapterSpec
from plait.adapters.peft import CONFIG_FILE, WEIGHTS_FILE
from plait.errors import ConfigError, MachineError, PeerError, PlaitError
from plait.exporting.plain_lora import lora_fault
from plait.system.files import at_home, directory_written_aside, failures_to, fsync_directory
from plait.system.text import printable

LATEST = "latest"

_ROUND_NAME = re.compile(r"round-\d{6,}")
_KEPT = 3
_MAX_SHOWN_CHARACTERS = 300
# Per request; loading waits for the server's current computation.
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Outlets:
    """The places of one run: a directory, and addresses of running vLLMs with their key."""

    directory: Path
    servers: tuple[str, ...]
    name: str
    api_key: str = ""

    @classmethod
    def of(cls, places: str, *, run: Path, spec: AdapterSpec, api_key: str = "") -> Self | None:
        """Parse the user's setting; None if it is empty. The name of the run directory is the model's in requests.

        Raises:
            ConfigError: two directories, an invalid address, a directory used by something else, or an adapter that
                vLLM does not support.
        """
        given = [place.strip() for place in places.split(",") if place.strip()]
        servers = [place for place in given if "://" in place]
        directories = [place for place in given if "://" not in place]
        if not given:
            return None
        if len(directories) > 1:
            raise ConfigError(f"publish names directories '{directories[0]}' and '{directories[1]}', expected one")
        for server in servers:
            check_address(server)
        fault = lora_fault(spec)
        if servers and fault is not None:
            raise ConfigError(
                f"publish names '{servers[0]}', but this adapter {fault}, and vLLM needs plain LoRA of a language "
                "model: publish to a directory only"
            )
        directory = at_home(directories[0]) if directories else run / "published"
        check_place(directory)
        return cls(directory, tuple(servers), run.resolve().name, api_key)

    def publish(self, adapter: Path, *, round_number: int) -> tuple[str, ...]:
        """Publish the PEFT directory of a round; the failures, one sentence each."""
        try:
            copy = publish(adapter, self.directory, round_number=round_number)
        except PlaitError as error:
            return (str(error),)
        failures: list[str] = []
        for server in self.servers:
            try:
                load_into_vllm(server, name=self.name, adapter=copy, api_key=self.api_key)
            except PlaitError as error:
                failures.append(str(error))
        return tuple(failures)


def publish(adapter: Path, place: Path, *, round_number: int) -> Path:
    """Copy the PEFT directory of a round to ``place/round-NNNNNN``, in place of an earlier one, for ``latest``.

    Raises:
        ConfigError: `adapter` is not a PEFT directory, or ``latest`` exists and is not a link.
        MachineError: `place` is read-only or full; ``latest`` is unchanged.
    """
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (adapter / name).is_file()]
    if missing:
        raise ConfigError(f"'{adapter}' has no {missing[0]}, expected a PEFT directory")
    check_place(place)
    link = place / LATEST
    copy = place / f"round-{round_number:06d}"
    with failures_to(f"publish to '{place}'"):
        place.mkdir(parents=True, exist_ok=True)
        with directory_written_aside(copy, exported=True) as aside:
            for file in sorted(adapter.iterdir()):
                if file.is_file():
                    shutil.copyfile(file, aside / file.name)
        _point(link, copy.name)
        rounds = sorted(entry.name for entry in place.iterdir() if _ROUND_NAME.fullmatch(entry.name))
        for name in {*rounds[:-_KEPT]} - {copy.name}:
            shutil.rmtree(place / name, ignore_errors=True)
    return copy


def check_place(place: Path) -> None:
    """Refuse a file, or a directory whose ``latest`` exists and is not a link (ConfigError)."""
    link = place / LATEST
    if place.exists() and not place.is_dir():
        raise ConfigError(f"'{place}' is a file, expected a directory to publish to")
    if link.exists() and not link.is_symlink():
        raise ConfigError(f"'{link}' is not a symbolic link, expected a directory that only plait publishes to")


def load_into_vllm(server: str, *, name: str, adapter: Path, api_key: str = "") -> None:
    """Make a running vLLM serve the adapter in `adapter` as `name`, replacing its current adapter of that name.

    Newer versions replace an adapter in place. Older ones refuse a name that is taken: then it is unloaded first, and
    requests in between fail. The server must see the PEFT directory under the same path.

    Raises:
        ConfigError: the address is not one such as ``http://localhost:8000``.
        PeerError: vLLM refuses the adapter, or has no load endpoint.
        MachineError: no answer in time.
    """
    post = partial(_post, check_address(server), api_key)
    load = {"lora_name": name, "lora_path": str(adapter.resolve()), "load_inplace": True}
    answer = post("/v1/load_lora_adapter", load)
    if answer.status_code == HTTPStatus.BAD_REQUEST and "already been loaded" in answer.text:
        post("/v1/unload_lora_adapter", {"lora_name": name})
        answer = post("/v1/load_lora_adapter", load)
    status = answer.status_code
    if status == HTTPStatus.OK:
        return
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED) and name not in answer.text:
        raise PeerError(
            f"'{server}' has no load endpoint (status {status}), expected a vLLM started with --enable-lora and "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
        )
    raise PeerError(f"vLLM at '{server}' refuses adapter '{name}' (status {status}): {_reason(answer)}")


def _reason(answer: httpx.Response) -> str:
    message: object = answer.text
    with contextlib.suppress(ValueError, TypeError, KeyError):
        body = answer.json()
        message = body["error"]["message"] if "error" in body else body["message"]
    line = " ".join(str(message).split())
    return printable(line, limit=_MAX_SHOWN_CHARACTERS) or "it gives no reason"


def _post(address: str, api_key: str, path: str, body: dict[str, str | bool]) -> httpx.Response:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        return httpx.post(address + path, json=body, headers=headers, timeout=_TIMEOUT_S, follow_redirects=True)
    except httpx.HTTPError as error:
        raise MachineError(
            f"no answer from vLLM at '{address}' within {_TIMEOUT_S:g} s: {str(error) or 'cut off'}"
        ) from error


def check_address(server: str) -> str:
    """The address in the form for requests; ConfigError if it is not an HTTP address."""
    address = server.rstrip("/").removesuffix("/v1")
    if not re.fullmatch(r"https?://[A-Za-z0-9._\[\]:-]+(/[A-Za-z0-9._~/-]*)?", address):
        raise ConfigError(f"address of vLLM is '{server}', expected one such as http://localhost:8000")
    return address


def _point(link: Path, target: str) -> None:
    aside = link.with_name(f".{LATEST}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target, target_is_directory=True)
    aside.replace(link)
    fsync_directory(link.parent)

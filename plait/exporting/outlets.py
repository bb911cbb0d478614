"""Places to publish the adapter of every round during a run: a directory, a running vLLM, or both.

``DIR``, ``http://HOST:PORT``, or both, separated by a comma. vLLM reads the adapter from a directory that it can also
see: the one given, or ``RUN/published``. Wrong places are reported before the first round; later failures must not
cost a round, so they are returned as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from plait.adapters import AdapterSpec, Task
from plait.errors import ConfigError, PlaitError
from plait.exporting.plain_lora import lora_fault
from plait.exporting.publish import check_address, check_place, load_into_vllm, publish
from plait.files import at_home

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Outlets:
    """The places of one run.

    Attributes:
        servers: addresses of running vLLMs (or of `plait serve`).
        api_key: of the servers, or empty.
    """

    directory: Path
    servers: tuple[str, ...]
    name: str
    api_key: str = ""

    @classmethod
    def of(cls, places: str, *, run: Path, spec: AdapterSpec, api_key: str = "") -> Outlets | None:
        """Parse the user's setting; None if it is empty.

        Args:
            run: the run directory; its name is the model name in requests.
            api_key: of the servers, or empty.

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
        fault = "has a classification head" if spec.task is Task.CLASSIFICATION else lora_fault(spec)
        if servers and fault is not None:
            raise ConfigError(
                f"publish names '{servers[0]}', but this adapter {fault}, and vLLM needs plain LoRA of a language "
                "model: publish to a directory only"
            )
        directory = at_home(directories[0]) if directories else run / "published"
        check_place(directory)
        return cls(directory, tuple(servers), run.resolve().name, api_key)

    def publish(self, adapter: Path, *, round_number: int) -> tuple[str, ...]:
        """Publish the PEFT directory of a round.

        Returns:
            The failures, one sentence each; empty if all places have it.
        """
        try:
            copy = publish(adapter, self.directory, round_number=round_number)
        except PlaitError as error:
            return (str(error),)
        failures: list[str] = []
        for server in self.servers:
            try:
                load_into_vllm(server, name=self.name, adapter=copy, timeout_s=_TIMEOUT_S, api_key=self.api_key)
            except PlaitError as error:
                failures.append(str(error))
        return tuple(failures)

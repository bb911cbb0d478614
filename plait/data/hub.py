"""Data sets of the Hugging Face hub, ``owner/name:config@revision``, through `datasets`, which caches them.

No code of a data set is ever run, and no file is read that is not its own: its card can name files of this machine.
"""

import itertools
import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError, DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import logging

from plait.data.bounds import memory_limit
from plait.data.records import Progress
from plait.data.rows import DataSource
from plait.data.tables import most_batch_bytes, object_source
from plait.errors import ConfigError, DataError, MachineError, machine_fault
from plait.system.text import printable

if TYPE_CHECKING:
    from plait.data.given import HubName

_MOST_CONFIGS = 12


def hub_source(name: "HubName", *, progress: Progress) -> DataSource:
    """The source in a data set of the hub.

    Raises:
        ConfigError: there is no such data set or configuration, or it is not public.
        DataError: it holds no tables, or only code, or names files outside it.
        MachineError: the hub is out of reach and nothing is cached, or the disk is full.
    """
    progress(f"looking for {name} in the hub cache, then on the hub")
    with _quiet(name):
        # A folder of this name is not taken for it.
        address = f"hf://datasets/{name.id}" if Path(name.id).exists() else name.id
        builder = datasets.load_dataset_builder(address, name.config or None, revision=name.revision or None)
        _check_files(name, builder.config.data_files)
        with memory_limit(most_batch_bytes()):
            builder.download_and_prepare()
        return object_source(builder.as_dataset(), str(name))


@contextmanager
def _quiet(name: "HubName") -> Generator[None]:
    """The library without its output; what it raises in the block becomes an error of one line."""
    had_bars = not datasets.are_progress_bars_disabled()
    verbosity = logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    except DatasetNotFoundError as error:
        raise ConfigError(
            f"data '{name}' is not on the hub, or not public; check the name, or log in with `hf auth login`"
        ) from error
    except DataFilesNotFoundError as error:
        raise DataError(f"data '{name}' holds no tables, expected Parquet, JSON, CSV or Arrow files") from error
    except ConnectionError as error:
        raise _out_of_reach(name, "nothing") from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "an unknown error")
        raise MachineError(f"cannot load data '{name}': the hub answers {status}; try again later") from error
    except ValueError as error:
        configs = _listed(error)
        if "Couldn't find cache" in str(error):
            raise _out_of_reach(name, f"only {configs}" if configs else "nothing") from error
        if configs:
            raise ConfigError(
                f"data '{name}' needs one of its configurations, expected {name.id}:CONFIG, one of: {configs}"
            ) from error
        raise DataError(_unreadable(name, error)) from error
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        raise DataError(
            f"data '{name}' is code, which is never run; take its tables: --data {name.id}@refs/convert/parquet"
        ) from error
    except (DatasetsError, OSError, MemoryError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MemoryError):
            raise DataError(
                f"data '{name}' takes more than {most_batch_bytes():,} bytes of memory to unpack; download its files "
                f"and give them as --data"
            ) from error
        raise machine_fault(cause) or DataError(_unreadable(name, cause)) from error
    finally:
        logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def _check_files(name: "HubName", data_files: Mapping[str, Sequence[str]] | None) -> None:
    """Refuse a data set whose card names files of this machine, of other data sets or of other servers."""
    own = f"hf://datasets/{name.id}@".casefold()
    for file in itertools.chain.from_iterable((data_files or {}).values()):
        # `::` chains file systems: what is behind it may be anywhere.
        if not file.casefold().startswith(own) or "::" in file:
            raise DataError(f"data '{name}' names the file {file[:128]!a}, expected only files of its own")


def _unreadable(name: "HubName", error: BaseException) -> str:
    # Without the library's message, which may quote a value.
    return f"data '{name}' cannot be read as a table ({type(error).__name__}), expected files of the same columns"


def _out_of_reach(name: "HubName", cached: str) -> MachineError:
    return MachineError(
        f"cannot load data '{name}': the hub is out of reach and {cached} is cached; connect this machine once, or "
        "give a file or folder"
    )


def _listed(error: ValueError) -> str:
    """The configurations that the library lists in an error about a missing or unknown one."""
    text = str(error)
    if not re.search(r"Config name is missing|BuilderConfig|[Cc]onfigs in the cache", text):
        return ""
    listed = re.search(r"\[(.*?)\]", text, re.DOTALL)
    names = re.findall(r"'([^']*)'", listed[1]) if listed else []
    more = f" and {len(names) - _MOST_CONFIGS} more" if len(names) > _MOST_CONFIGS else ""
    return printable(", ".join(names[:_MOST_CONFIGS])) + more

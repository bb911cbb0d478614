"""Upload an export, with its card, to the Hugging Face hub or a server that speaks its protocol (``HF_ENDPOINT``).

Sends the files of the export and nothing else of the run. The token is the one of ``hf auth login`` or ``HF_TOKEN``.
"""

from collections.abc import Iterable
from pathlib import Path

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from plait.errors import ConfigError, MachineError
from plait.system.text import escaped


def check_repository(name: str) -> None:
    """Refuse a name that is not ``OWNER/NAME`` (ConfigError), before anything is written."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"--push-to-hub is '{escaped(name)}', expected OWNER/NAME") from error
    if name.count("/") != 1:
        raise ConfigError(f"--push-to-hub is '{name}', expected OWNER/NAME")


def push_to_hub(directory: Path, name: str, *, files: Iterable[str], private: bool = True) -> str:
    """Upload a directory as one commit, and return the address of the repository, which is made if there is none.

    Args:
        name: of the repository, ``OWNER/NAME``.
        private: whether only its owner can read a repository that is made; one that exists stays as it is.

    Raises:
        ConfigError: you are not logged in, or the account may not write there.
        MachineError: the hub cannot be reached, or fails.
    """
    hub = HfApi()
    try:
        address = hub.create_repo(name, private=private, exist_ok=True, token=True)
        hub.upload_folder(
            repo_id=name,
            folder_path=directory,
            allow_patterns=list(files),
            commit_message="Upload adapter",
            token=True,
        )
    except LocalTokenNotFoundError as error:
        raise ConfigError(
            "cannot upload: you are not logged in to the hub; run hf auth login or set HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ConfigError(
                f"cannot upload to '{name}': the hub answers {status}; use a token that may write there"
            ) from error
        raise MachineError(f"cannot upload to '{name}': the hub answers {status}") from error
    except (OSError, httpx.HTTPError) as error:
        raise MachineError(f"cannot upload to '{name}': {type(error).__name__}; can the hub be reached?") from error
    return str(address)

"""JSON that the other end sent as text. Knows nothing of its keys; callers check what they rely on."""

from __future__ import annotations

from typing import cast

from plait.errors import PeerError
from plait.system.json_text import read_json


def json_object(text: str, *, what: str) -> dict[str, object]:
    """The object in a message's text, which gRPC has bounded.

    Raises:
        PeerError: it is no JSON object.
    """
    try:
        said = read_json(text)
    except ValueError as error:
        raise PeerError(f"{what} is not JSON, expected one object") from error
    if not isinstance(said, dict):
        raise PeerError(f"{what} is a JSON {type(said).__name__}, expected an object")
    return cast("dict[str, object]", said)

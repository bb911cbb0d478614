"""What the server keeps of a masked sum while it is taken: the sealed sums of its groups, and who has signed them.

Knows no stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.adapters.safetensors_file import decode_arrays, encode_arrays
from plait.errors import PeerError
from plait.features.secagg.messages import MaskingTask
from plait.features.secagg.ring import Ring
from plait.features.secagg.roster import Roster
from plait.features.secagg.server import Sealed
from plait.wire.messages import decode_task, encode_task


def signatures_to_bytes(groups: Sequence[Mapping[int, bytes]]) -> bytes:
    """Signatures by place, of each group."""
    return json.dumps([{str(place): each.hex() for place, each in group.items()} for group in groups]).encode()


def signatures_from_bytes(data: bytes) -> list[dict[int, bytes]]:
    """The inverse of `signatures_to_bytes`.

    Raises:
        PeerError: damaged.
    """
    try:
        return [{int(place): bytes.fromhex(each) for place, each in group.items()} for group in json.loads(data)]
    except (ValueError, TypeError, AttributeError) as error:
        raise PeerError("the stored signatures of a round are damaged, expected what was stored") from error


def sealed_to_bytes(groups: Sequence[Sealed]) -> bytes:
    """The sealed sums of all groups."""
    said: list[object] = []
    arrays: dict[str, NDArray[np.generic]] = {}
    for number, sealed in enumerate(groups):
        # As the task that showed the roster to its clients.
        (shown, _) = encode_task(MaskingTask(sealed.roster.session, sealed.roster))
        said.append({"roster": shown.hex(), "sharers": list(sealed.sharers), "survivors": list(sealed.survivors)})
        digests = (digest for held in sealed.digests.values() for pair in held.values() for digest in pair)
        arrays[f"values-{number}"] = sealed.values.astype(np.uint32)
        arrays[f"figures-{number}"] = sealed.figures.view(np.int64)
        arrays[f"digests-{number}"] = np.frombuffer(b"".join(digests), "<u4")
    return encode_arrays(arrays, {"sealed": json.dumps(said)})


def sealed_from_bytes(data: bytes) -> list[Sealed]:
    """The inverse of `sealed_to_bytes`.

    Raises:
        PeerError: damaged.
    """
    try:
        arrays, metadata = decode_arrays(data)
        said = json.loads(metadata["sealed"])
        return [_sealed(arrays, number, each) for number, each in enumerate(said)]
    except (KeyError, ValueError, TypeError) as error:
        raise PeerError("the stored sum under masks is damaged, expected what was stored") from error


def _sealed(arrays: Mapping[str, NDArray[np.generic]], number: int, said: dict[str, Any]) -> Sealed:
    shown = bytes.fromhex(said["roster"])
    task = decode_task(shown, max_bytes=len(shown))
    if not (isinstance(task, MaskingTask) and isinstance(task.stage, Roster)):
        raise ValueError
    roster, sharers = task.stage, tuple(said["sharers"])
    digests = iter(arrays[f"digests-{number}"].astype("<u4").reshape(-1, 2, 8))
    held = {
        place: {
            holder: (key.tobytes(), seed.tobytes())
            for holder, (key, seed) in zip((h for h in roster.holders(place) if h != place), digests, strict=False)
        }
        for place in sharers
    }
    values = arrays[f"values-{number}"].astype(Ring(roster.bits).dtype)
    figures = arrays[f"figures-{number}"].astype(np.int64).view(np.uint64)
    return Sealed(roster, sharers, tuple(said["survivors"]), values, figures, held)

"""A run as server-sent events: each message has the ledger's sequence number as its id, so that none is lost.

A message is a JSON array of merge patches, or (`event: document`) the whole document for a watcher that has none of it.
`event: live` brings what no ledger has: what each client is doing, as the server sees it now. A
reader who is slow gets more patches at once, never a longer queue.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from plait.features.page.feed import Feed

_ALIVE_S = 10.0
RETRY_MS = 1000


async def messages(
    feed: Feed,
    changed: asyncio.Condition,
    *,
    after: int,
    run: str,
    ended: Callable[[], bool],
    live: Callable[[], tuple[int, bytes]],
) -> AsyncIterator[bytes]:
    """The messages of one watcher, until the server ends.

    Args:
        after: the newest event that the watcher has; -1 for none.
        live: what the server sees now, as JSON, and its version; 0 before it was asked.
    """
    yield b"retry: %d\n\n" % RETRY_MS
    seen = 0
    while not ended():
        later = feed.patches_after(after, run)
        if later is None and feed.seq >= 0:
            after, document = await asyncio.to_thread(feed.document)
            run = feed.run
            yield b"event: document\nid: %d\ndata: %b\n\n" % (after, document)
        elif later and later[1]:
            after = later[0]
            yield b"id: %d\ndata: %b\n\n" % later
        elif (now := live())[0] != seen:
            seen = now[0]
            yield b"event: live\ndata: %b\n\n" % now[1]
        elif not await _waited(changed, partial(_is_news, feed, after, run, ended, seen, live)):
            # Notices watchers that are gone, and lets the others correct their clocks.
            yield b"event: clock\ndata: %b\n\n" % json.dumps({"now": round(time.time(), 3)}).encode()


def _is_news(
    feed: Feed, after: int, run: str, ended: Callable[[], bool], seen: int, live: Callable[[], tuple[int, bytes]]
) -> bool:
    return ended() or live()[0] != seen or (feed.seq >= 0 and (feed.seq != after or feed.run != run))


async def _waited(changed: asyncio.Condition, until: Callable[[], bool]) -> bool:
    """Wait for a change; False if there was none for a while."""
    try:
        async with asyncio.timeout(_ALIVE_S), changed:
            await changed.wait_for(until)
    except TimeoutError:
        return False
    return True

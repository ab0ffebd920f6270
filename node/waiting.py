"""A wait for an event that has a bound."""

from __future__ import annotations

import asyncio


async def set_within(event: asyncio.Event, limit_s: float | None) -> bool:
    """Wait until it is set, for so many seconds at most (None: for ever). Returns: whether it is."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    return True

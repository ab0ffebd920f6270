"""What a request takes out of its asker's tokens a minute: an answer as it comes, the prompt once it is counted.

Whoever breaks off has had the work done all the same: what was delivered counts, and the prompt as it is estimated. A
request that was refused costs nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TypeAlias

from node.errors import NodeError
from node.fingerprint import fingerprint
from node.jobs import Delta, Done, Embedded, EmbedJob, Event, Prompt, Raw

Spend: TypeAlias = Callable[[int], None]


async def billed(events: AsyncGenerator[Event, None], prompt: Prompt, spend: Spend) -> AsyncGenerator[Event, None]:
    """The same events, paid for."""
    delivered, owed = 0, None
    try:
        async with aclosing(events) as coming:
            async for event in coming:
                if isinstance(event, Delta):
                    delivered += len(event.tokens)
                    spend(len(event.tokens))
                elif isinstance(event, Done):
                    owed = 0
                    spend(max(0, event.usage.prompt_tokens + event.usage.output_tokens - delivered))
                yield event
    except NodeError:
        if not delivered:
            owed = 0
        raise
    finally:
        if owed is None:
            spend(_estimated((prompt,)))


async def billed_embedding(work: Awaitable[Embedded], job: EmbedJob, spend: Spend) -> Embedded:
    """The same vectors, paid for."""
    try:
        embedded = await work
    except asyncio.CancelledError:
        spend(_estimated(Raw(prompt=text) for text in job.inputs))
        raise
    spend(embedded.prompt_tokens)
    return embedded


def _estimated(prompts: Iterable[Prompt]) -> int:
    return sum(fingerprint(prompt).total_tokens for prompt in prompts)

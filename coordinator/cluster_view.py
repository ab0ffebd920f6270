"""The view that this node routes by, kept up to date: one owner, told of every report and every loss as it comes.

The views themselves are values (`coordinator.view`); whoever took one keeps a consistent picture while this moves on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coordinator.view import NodeReport, View, WeightsDigest
from node.peers import Change, Reported, WentDown, WentUp
from node.waiting import set_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from node.identity import NodeId


class ClusterView:
    """What this node knows of the cluster, its own part included. `now` is the newest view."""

    def __init__(self, me: NodeId) -> None:
        self.now = View(nodes={}, heard_at_s={}, me=me)
        self._changed = asyncio.Event()

    def take_own(self, report: NodeReport, now_s: float) -> None:
        """This node's own newest report."""
        self._set(self.now.with_report(report, now_s))

    def take(self, change: Change, now_s: float) -> None:
        """What `node.peers` found out about another node."""
        match change:
            case Reported():
                self._set(self.now.with_report(change.report, now_s))
            case WentUp():
                view = self.now.with_report(change.report, now_s)
                self._set(view.with_state(change.report.node, change.report.state))
            case WentDown():
                self._set(self.now.with_state(change.node, "lost"))

    def forget(self, node: NodeId) -> None:
        """The node left the cluster."""
        self._set(self.now.without(node))

    def sent(self, node: NodeId, model: WeightsDigest, prompt_tokens: int) -> Callable[[], None]:
        """A request has been routed there, which its next report will show.

        Returns: to be called when it has ended, which that report may be too late for.
        """
        # Nobody waits for this: a place taken lets no one else in.
        before = self.now.nodes.get(node)
        self.now = self.now.with_sent(node, model, prompt_tokens)

        def ended() -> None:
            if self.now.nodes.get(node) is before:
                self.now = self.now.with_sent(node, model, -prompt_tokens, requests=-1)

        return ended

    async def changed(self, limit_s: float) -> None:
        """Wait for the next change, at most so long."""
        await set_within(self._changed, limit_s)

    def _set(self, view: View) -> None:
        self.now = view
        self._changed.set()
        self._changed = asyncio.Event()

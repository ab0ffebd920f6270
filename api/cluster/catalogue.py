"""Models of the whole cluster by name: what other nodes store can be asked for on this one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from api.cluster.views import loaded_line
from api.daemon import KnownModel
from api.model_views import bare_entry, show_object, tag_entry
from node.asker import ASKER
from node.decoding import DECODE_ERRORS
from node.errors import NodeError, Unserved
from node.peers import Call, Caller, CallRefused
from registry import CardBox, ModelCard, ModelName, ModelNotFound, RegistryError, UnsupportedModel

if TYPE_CHECKING:
    from api.daemon import ModelShelf
    from coordinator.cluster_view import ClusterView
    from node.identity import NodeId
    from node.peers import Peers
    from node.report import ManifestDigest
    from registry import ModelStore

log = logging.getLogger(__name__)

MAX_KEPT = 1024
LIST_LIMIT_S = 2.0
MAX_ASKED_AT_ONCE = 16


class CardAsk(Struct, frozen=True, kw_only=True):
    """Which model, by its full name; `show`: with everything that /api/show says, verbosely or not."""

    name: str
    show: bool = False
    verbose: bool = False


class CardAnswer(Struct, frozen=True, kw_only=True):
    """The model, what can be done with it, and how lists (`entry`) and /api/show (`shown`) describe it, as JSON."""

    card: ModelCard
    capabilities: tuple[str, ...]
    entry: bytes
    shown: bytes = b""


class Catalogue:
    """The cluster's models as this node knows them."""

    def __init__(
        self,
        store: ModelStore,
        shelf: ModelShelf,
        cluster: ClusterView,
        peers: Peers,
        box: CardBox,
        on_stored: Callable[[], None],
    ) -> None:
        self._store, self._shelf, self._cluster, self._peers, self._box = store, shelf, cluster, peers, box
        self._on_stored = on_stored
        self._kept: dict[tuple[str, ManifestDigest], tuple[KnownModel, dict[str, Any]]] = {}

    def calls(self) -> dict[str, Call]:
        """What this answers to other nodes."""
        return {"model": Call(CardAsk, self._answer)}

    def may_use(self, name: str) -> bool:
        """Whether whoever asks may do anything with the model of this name."""
        grant = ASKER.get()
        return grant is None or grant.allows_model(name)

    def stored_here_changed(self) -> None:
        """Models were added to this machine, or removed."""
        self._on_stored()

    async def find(self, name: ModelName) -> KnownModel:
        """A model that only other nodes store.

        Raises: ModelNotFound: nobody has it. Unserved: only nodes that can't be reached now.
        """
        holders = self._holders(name)
        if not holders:
            if lost := self._lost_holders(name):
                raise Unserved(f"model '{name}' is stored only on {', '.join(lost)}, which can't be reached")
            raise ModelNotFound(name)
        known, _ = await self._known(holders)
        return known

    async def show(self, name: ModelName, *, verbose: bool) -> dict[str, Any]:
        """What /api/show says of a model of another node. Raises as `find`."""
        for node, held, _ in self._holders(name):
            ask = CardAsk(name=ModelName.parse(held).full, show=True, verbose=verbose)
            try:
                answer = await self._peers.call(node, "model", ask, CardAnswer)
                return _object(answer.shown)
            except (NodeError, RegistryError) as error:
                log.info("model %s not described by node %s: %s", name, node, error)
        raise ModelNotFound(name)

    async def entries(self, local: Sequence[ModelName]) -> list[dict[str, Any]]:
        """Lines of /api/tags for the models that are not among the local ones."""
        known = {str(name).casefold() for name in local}
        wanted: dict[str, list[tuple[NodeId, str, ManifestDigest]]] = {}
        for report in self._cluster.now.nodes.values():
            if report.state != "lost" and report.node != self._cluster.now.me:
                for held in report.held:
                    if held.is_complete and held.name.casefold() not in known:
                        wanted.setdefault(held.name.casefold(), []).append((report.node, held.name, held.manifest))
        gate = asyncio.Semaphore(MAX_ASKED_AT_ONCE)

        async def entry_of(holders: list[tuple[NodeId, str, ManifestDigest]]) -> dict[str, Any] | None:
            try:
                async with gate, asyncio.timeout(LIST_LIMIT_S):
                    _, entry = await self._known(holders)
            except (NodeError, RegistryError, TimeoutError):
                return None
            return entry

        entries = await asyncio.gather(*(entry_of(holders) for holders in wanted.values()))
        return [entry for entry in entries if entry is not None]

    async def loaded(self, here: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Lines of /api/ps: those of this machine and those of the others, each with its machine's name."""
        view = self._cluster.now
        mine = view.nodes.get(view.me)
        lines = [line | {"node": mine.name if mine else view.me} for line in here]
        for report in view.nodes.values():
            if report.node == view.me or report.state == "lost":
                continue
            for model in report.resident:
                details = await self._details(report.node, model.name, model.manifest)
                lines.append(loaded_line(model, report.name, details))
        return [line for line in lines if self.may_use(line["name"])]

    async def _details(self, node: NodeId, name: str, digest: ManifestDigest) -> object:
        """Family, size and quantisation of another node's model, as far as they can be had quickly."""
        try:
            async with asyncio.timeout(LIST_LIMIT_S):
                _, entry = await self._known([(node, name, digest)])
        except (NodeError, RegistryError, TimeoutError):
            return {}
        return entry.get("details", {})

    async def _known(self, holders: list[tuple[NodeId, str, ManifestDigest]]) -> tuple[KnownModel, dict[str, Any]]:
        """The first holder's version of the model, told by whoever answers."""
        _, first_name, digest = holders[0]
        if kept := self._kept.get((first_name, digest)):
            return kept
        failure: Exception = ModelNotFound(ModelName.parse(first_name))
        for node, name, held in holders:
            if held != digest:
                continue
            try:
                wanted = ModelName.parse(name)
                answer = await self._peers.call(node, "model", CardAsk(name=wanted.full), CardAnswer)
                model = await asyncio.to_thread(self._box.model, answer.card)
                entry = _object(answer.entry) | bare_entry(model)
            except (NodeError, RegistryError) as error:
                log.info("model %s not described by node %s: %s", name, node, error)
                failure = Unserved(str(error))
                continue
            if str(model.digest) != digest or model.name != wanted:
                continue  # replaced there a moment ago: its next report says so
            if len(self._kept) >= MAX_KEPT:
                del self._kept[next(iter(self._kept))]
            known = KnownModel(model, answer.capabilities), entry
            self._kept[first_name, digest] = known
            return known
        raise failure

    def _holders(self, name: ModelName) -> list[tuple[NodeId, str, ManifestDigest]]:
        """Who has it whole, those with the most widespread version first."""
        wanted = str(name).casefold()
        found = [
            (report.node, held.name, held.manifest)
            for report in self._cluster.now.nodes.values()
            if report.state != "lost" and report.node != self._cluster.now.me
            for held in report.held
            if held.is_complete and held.name.casefold() == wanted
        ]
        spread = [digest for _, _, digest in found]
        return sorted(found, key=lambda item: (-spread.count(item[2]), item[2], item[0]))

    def _lost_holders(self, name: ModelName) -> list[str]:
        wanted = str(name).casefold()
        reports = self._cluster.now.nodes.values()
        return [r.name for r in reports if r.state == "lost" and any(h.name.casefold() == wanted for h in r.held)]

    async def _answer(self, caller: Caller, ask: CardAsk) -> CardAnswer:
        try:
            return await asyncio.to_thread(self._describe, ask)
        except ModelNotFound:
            raise CallRefused(404, "no such model here") from None
        except RegistryError as error:
            raise CallRefused(500, str(error)) from None

    def _describe(self, ask: CardAsk) -> CardAnswer:
        model = self._store.resolve(ModelName.parse(ask.name))
        known = self._shelf.describe(model)
        shown = show_object(known, verbose=ask.verbose) if ask.show else {}
        return CardAnswer(
            card=ModelCard.of(model),
            capabilities=known.capabilities,
            entry=msgspec.json.encode(tag_entry(self._shelf, model)),
            shown=msgspec.json.encode(shown),
        )


def _object(told: bytes) -> dict[str, Any]:
    """What another node says of a model, as JSON. Raises UnsupportedModel: it makes no sense."""
    try:
        found: dict[str, Any] = msgspec.json.decode(told, type=dict[str, Any])
    except DECODE_ERRORS as error:
        raise UnsupportedModel(f"its description makes no sense: {error}") from None
    return found

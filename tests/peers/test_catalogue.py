"""What a member says of its models, however odd, breaks no list of another one."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from api.cluster.catalogue import CardAnswer, CardAsk, Catalogue
from api.cluster.views import loaded_line
from api.daemon import ModelShelf
from api.model_views import openai_entry
from coordinator.cluster_view import ClusterView
from node.peers import Call, Caller, CallRefused, WentUp
from node.report import HeldModel, ManifestDigest, ResidentModel, WeightsDigest
from registry import CardBox, Model, ModelName, ModelNotFound, ModelStore
from tests.api.scripted_node import ScriptedNode
from tests.peers.lan_nodes import lan_nodes

HERE = ModelName.parse("tiny")


@dataclass
class Teller:
    """The catalogue of one member, and what the other one answers: `change` of its true answer, or nothing."""

    catalogue: Catalogue
    change: dict[str, Any] | None = None


@pytest.fixture
async def teller(tmp_path: Path, store: ModelStore, model: Model) -> AsyncIterator[Teller]:
    empty = ModelStore(tmp_path / "empty", cache_dir=tmp_path / "cache", builtin=tmp_path / "none")
    box = CardBox(tmp_path / "box")
    async with lan_nodes(tmp_path, [ScriptedNode(), ScriptedNode()], [empty, store]) as (here, there):
        view = ClusterView(here.id)
        holds = HeldModel(
            digest=WeightsDigest(str(model.weights_digest)),
            manifest=ManifestDigest(str(model.digest)),
            name=str(model.name),
            size_bytes=1,
            present_bytes=1,
        )
        resident = ResidentModel(digest=holds.digest, manifest=holds.manifest, name=holds.name, context_tokens=64)
        view.take(WentUp(replace(there.report(), held=(holds,), resident=(resident,))), time.monotonic())
        told = Teller(Catalogue(empty, ModelShelf(empty), view, here.peers, box, lambda: None))
        true = Catalogue(store, ModelShelf(store), view, there.peers, box, lambda: None).calls()["model"]

        async def tell(caller: Caller, ask: CardAsk) -> CardAnswer:
            if told.change is None:
                raise CallRefused(404, "no such model here")
            answer = await true.answer(caller, ask)
            card = replace(answer.card, **{key: told.change[key] for key in told.change if hasattr(answer.card, key)})
            rest = {key: value for key, value in told.change.items() if not hasattr(card, key)}
            return replace(answer, card=card, **rest)

        there.endpoints.calls["model"] = Call(CardAsk, tell)
        yield told
    box.close()
    empty.close()


async def test_a_model_of_another_node_is_listed_and_shown_as_there(teller: Teller, model: Model) -> None:
    teller.change = {}
    (entry,) = await teller.catalogue.entries(())
    assert (entry["name"], entry["digest"], entry["size"]) == ("tiny:latest", model.digest.hex, model.size_bytes)
    assert entry["details"]["context_length"] > 0  # by its weights, which are not here
    assert (await teller.catalogue.show(HERE, verbose=False))["details"].items() <= entry["details"].items()
    (line,) = await teller.catalogue.loaded([])
    assert line["details"] == entry["details"]


@pytest.mark.parametrize(
    "change",
    [
        {"modified_at_s": math.inf},
        {"modified_at_s": math.nan},
        {"modified_at_s": 1e15},
        {"modified_at_s": -1e15},
        {"entry": b"no JSON"},
        {"entry": b'"\xff"'},
        {"entry": b"[" * 100_000},
        {"entry": b"[]"},
        {"name": "other"},
        {"digest": "sha256:" + "0" * 64},
        {"manifest": b"{}"},
        None,
    ],
)
async def test_a_description_that_makes_no_sense_is_left_out(teller: Teller, change: dict[str, Any] | None) -> None:
    teller.change = change
    assert await teller.catalogue.entries(()) == []
    (line,) = await teller.catalogue.loaded([])
    assert (line["name"], line["details"]) == ("tiny:latest", {})


@pytest.mark.parametrize("entry", [b"{}", b'{"name": 5, "modified_at": null, "details": [1], "size": 1e300}'])
async def test_what_is_known_here_is_not_taken_from_a_description(teller: Teller, entry: bytes, model: Model) -> None:
    teller.change = {"entry": entry}
    (found,) = await teller.catalogue.entries(())
    assert (found["name"], found["digest"], found["size"]) == ("tiny:latest", model.digest.hex, model.size_bytes)
    assert openai_entry(found)["created"] == int(model.modified_at.timestamp())
    msgspec.json.encode(await teller.catalogue.loaded([]))


async def test_a_show_that_makes_no_sense_is_as_none(teller: Teller) -> None:
    teller.change = {"shown": b"no JSON"}
    with pytest.raises(ModelNotFound):
        await teller.catalogue.show(HERE, verbose=False)


@pytest.mark.parametrize(("expires_in_s", "year"), [(0.0, None), (1e12, 2318), (1e300, 2318), (math.inf, 2318)])
def test_a_model_may_be_told_to_stay_however_long(expires_in_s: float, year: int | None) -> None:
    digest = WeightsDigest("sha256:00")
    model = ResidentModel(
        digest=digest, manifest=ManifestDigest(digest), name="tiny", context_tokens=1, expires_in_s=expires_in_s
    )
    expires_at = loaded_line(model, "b", {})["expires_at"]
    assert year is None or expires_at.startswith(f"{year}-")

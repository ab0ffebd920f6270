"""Answers of some seconds whose every character is known, read in the background while something happens to nodes."""

from __future__ import annotations

import json
import ssl
import threading
import time
from typing import Any

import httpx

from tests.cluster.real_nodes import RealNode, until

LONG = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count."}],
    "think": False,
    "options": {"temperature": 0, "num_predict": 3000, "num_ctx": 4096},
}


class Stream(threading.Thread):
    """A client of one node that asks for the long answer and reads it to its end.

    The grammar leaves the model no choice: three to four tokens a number, and any that is lost or comes twice shows.
    """

    def __init__(self, node: RealNode, *, numbers: int = 220, token: str = "", **changes: Any) -> None:
        """`token`: ask on the LAN port, with this. `changes`: to the request."""
        super().__init__(daemon=True)
        self.text, self.error = "", ""
        self.last: dict[str, Any] = {}
        self.status = 0
        self._wanted = " ".join(map(str, range(1, numbers)))
        self._body = LONG | {"format": {"const": self._wanted}} | changes
        self._place = node.place
        self._url = node.lan_url if token else node.url
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._verify = ssl.create_default_context(cafile=node.ca) if token else True
        self.start()

    def run(self) -> None:
        try:
            with (
                self._place.inside(),
                httpx.stream(
                    "POST",
                    f"{self._url}/api/chat",
                    json=self._body,
                    headers=self._headers,
                    verify=self._verify,
                    timeout=90,
                ) as response,
            ):
                self.status = response.status_code
                for line in response.iter_lines():
                    self.last = json.loads(line)
                    self.error = self.last.get("error", "")
                    self.text += self.last.get("message", {}).get("content", "")
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"

    def await_text(self, characters: int = 40) -> Stream:
        """Wait until it is well under way."""
        until(lambda: len(self.text) >= characters or not self.is_alive(), 30.0, "the beginning of the answer")
        assert self.is_alive(), (self.error, self.status)
        return self

    @property
    def resumed(self) -> int:
        """How often it went on elsewhere."""
        return int(self.last.get("ayni", {}).get("resumed", 0))

    def whole(self) -> dict[str, Any]:
        """Its last line, once it is there; the answer must be whole."""
        began_s = time.monotonic()
        self.join(90)
        assert not self.is_alive(), time.monotonic() - began_s
        assert (self.status, self.error) == (200, "")
        assert self.text == json.dumps(self._wanted)
        assert self.last["done"] is True
        return self.last

"""How a command proves who asks: to its own user's node with the key in that node's record, elsewhere with a token.

Looked up with each request, since a command may start the node that it asks.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from cli.client import Client
from node.daemon_file import read_daemon_record
from node.setting_values import Address
from node.settings import Settings

# As Ollama's own clients read it, so that what `ayni token create` says to set serves `ayni` too.
TOKEN_VARIABLE = "OLLAMA_API_KEY"  # noqa: S105 - its name


def client_for(settings: Settings) -> Client:
    """A client of the node that the settings name."""
    return Client(settings.address, partial(credential, settings.address, settings.state_dir))


def credential(address: Address, state_dir: Path) -> str:
    """The key of the node that runs here, at this address, for this user; else the token that is set; else "".

    Another machine is never told the key, though its node may well listen on the same port. The token is sent to who
    proves by a certificate to be its cluster, and to nobody else; without TLS no node wants it.
    """
    try:
        record = read_daemon_record(state_dir, address.port)
    except OSError:  # it is another user's
        record = None
    if record is not None and (address.is_this_machine or record.host == address.host):
        return record.key
    return os.environ.get(TOKEN_VARIABLE, "").strip() if address.scheme == "https" else ""

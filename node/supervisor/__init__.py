"""The runner processes of this machine: started, fed, shared, kept while useful, ended."""

from __future__ import annotations

from node.supervisor.plan import base_context
from node.supervisor.supervisor import Supervisor
from node.supervisor.types import LoadedModel, LoadOptions, WeightsKey

__all__ = ["LoadOptions", "LoadedModel", "Supervisor", "WeightsKey", "base_context"]

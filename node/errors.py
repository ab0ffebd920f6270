"""What can go wrong on one machine.

NodeError
├── InvalidSetting    a setting can't be used; the start stops
├── DevicesUnknown    the probe of this machine's devices failed
├── LoadError         the model can't be made ready
│   ├── DoesNotFit    not enough memory, even after unloading what is idle
│   └── LoadFailure   the runner said no, took too long, or died while loading
├── QueueFull         as many requests wait as are allowed to
├── RunnerLost        the process that served the request died or hung
├── SlowReader        whoever asked did not take its output in time; the job was cancelled
├── Unserved          no machine of the cluster takes the request now
├── JobFailed         the runner refused or gave up one job
└── Closing           the node is going down, or hands its work to others
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.jobs import Failed

GIB = 1 << 30


def in_gib(count: int) -> str:
    """Bytes as text for people."""
    return f"{count / GIB:.1f} GiB"


class NodeError(Exception):
    """Anything this machine can't do."""


class InvalidSetting(NodeError):
    """One clear line: where the setting stands, what it says, what it may say."""

    def __init__(self, source: str, value: str, allowed: str) -> None:
        super().__init__(source, value, allowed)
        self.source, self.value, self.allowed = source, value, allowed

    def __str__(self) -> str:
        shown = f" = {self.value!r}" if self.value else ""
        return f"bad setting {self.source}{shown}: {self.allowed}"


class DevicesUnknown(NodeError):
    """The device probe did not answer, or answered nonsense."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"can't list this machine's devices: {self.reason}"


class LoadError(NodeError):
    """The model can't be made ready."""


class DoesNotFit(LoadError):
    """The model needs more memory than there is; both in bytes, over all devices that could be used."""

    def __init__(self, needed_bytes: int, free_bytes: int, model: str = "") -> None:
        super().__init__(needed_bytes, free_bytes, model)
        self.needed_bytes, self.free_bytes, self.model = needed_bytes, free_bytes, model

    def __str__(self) -> str:
        subject = f"model '{self.model}'" if self.model else "model"
        return (
            f"{subject} requires more system memory ({in_gib(self.needed_bytes)}) "
            f"than is available ({in_gib(self.free_bytes)})"
        )


class LoadFailure(LoadError):
    """The runner could not load the model; `message` is meant for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class QueueFull(NodeError):
    """Too many requests are waiting already; trying again after `retry_after_s` makes sense."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(waiting, retry_after_s)
        self.waiting, self.retry_after_s = waiting, retry_after_s

    def __str__(self) -> str:
        # Clients of Ollama match on these words.
        return "server busy, please try again.  maximum pending requests exceeded"


class RunnerLost(NodeError):
    """The process that held the model is gone, and the answer with it; the next request loads the model anew."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model, self.reason = model, reason

    def __str__(self) -> str:
        return f"the runner of model '{self.model}' is gone ({self.reason}); please try again"


class SlowReader(NodeError):
    """Output piled up beyond a limit because nobody took it."""

    def __init__(self, pending_bytes: int) -> None:
        super().__init__(pending_bytes)
        self.pending_bytes = pending_bytes

    def __str__(self) -> str:
        return f"the reader left {self.pending_bytes} bytes of output waiting; the request was cancelled"


class Unserved(NodeError):
    """Nobody in the cluster can serve the request now; `reason` is one clause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"no machine of the cluster can serve this now: {self.reason}"


class JobFailed(NodeError):
    """The runner's own verdict on a job."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed)
        self.failed = failed

    def __str__(self) -> str:
        return self.failed.message


class Closing(NodeError):
    """The node is shutting down, or being drained, and takes no more work."""

    def __str__(self) -> str:
        return "the node is shutting down"

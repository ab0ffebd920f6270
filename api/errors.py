"""What can go wrong between the wire and the node, and the one table that gives every error its status code.

ApiError
├── BadRequest          the request can't be understood or served as it is
│   └── MissingBody     there is no body where one is needed
├── BodyTooLarge        the body is longer than this node reads
├── BodyTooSlow         the body comes more slowly than this node waits for
├── BodiesTooMany       so many long bodies are on their way that this one has no place
├── UnknownModel        no such model, in the words that clients match on
├── Unauthenticated     asked without the credential that it takes (token, node certificate, key), or with a wrong one
├── NotGranted          the token is good, but not for this
├── OverLimit           the token's own rates are used up
├── Conflict            not possible as things are now
├── OutOfReach          another machine has to take part and does not answer
├── UnknownItem         no such node, token or the like
├── ForbiddenHost       the Host header names neither this machine nor a configured name
├── ForbiddenOrigin     a web page that may not use this node
├── NoSuchRoute         unknown path
├── WrongMethod         known path, other method
└── NotOffered          a known endpoint that this version does not have
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from node import errors as node_errors
from node.jobs import FailureKind
from registry import errors as registry_errors

MAX_MESSAGE_CHARS = 2000
RETRY_AFTER_S = 5


class ApiError(Exception):
    """Anything the API itself refuses."""


class BadRequest(ApiError):
    """The request can't be served as it is; `param` names the offending field, where there is one."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)
        self.message, self.param = message, param

    def __str__(self) -> str:
        return self.message


class MissingBody(BadRequest):
    """The request has no body."""

    def __init__(self) -> None:
        super().__init__("missing request body")


class BodyTooLarge(ApiError):
    """The body is longer than `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return f"request body too large: at most {self.limit_bytes} bytes are read (setting max_body)"


class BodyTooSlow(ApiError):
    """The client stopped sending in the middle of its request, or nearly so."""

    def __str__(self) -> str:
        return "the request body came too slowly"


class BodiesTooMany(ApiError):
    """The memory that bodies may take while they are on their way is taken."""

    def __str__(self) -> str:
        return "too many long requests are on their way; please try again"


class UnknownModel(ApiError):
    """No model of that name; `name` is as the client wrote it."""

    def __init__(self, name: str, advice: str = "") -> None:
        super().__init__(name, advice)
        self.name, self.advice = name[:MAX_MESSAGE_CHARS], advice

    def __str__(self) -> str:
        # Clients of Ollama match on these words to offer a download.
        return f'model "{self.name}" not found{self.advice}' if self.advice else f"model '{self.name}' not found"


class Unauthenticated(ApiError):
    """Nobody we know asks; `reason` never contains a part of a credential."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class NotGranted(ApiError):
    """The asker is known, but may not do this."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class OverLimit(ApiError):
    """A limit of the token's own is reached; trying again after `retry_after_s` makes sense."""

    def __init__(self, limit: str, retry_after_s: int) -> None:
        super().__init__(limit, retry_after_s)
        self.limit, self.retry_after_s = limit, retry_after_s

    def __str__(self) -> str:
        return f"this token's limit of {self.limit} is reached; try again in {self.retry_after_s} s"


class Conflict(ApiError):
    """The request makes sense, but not as things are now; `reason` says what is in the way."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class OutOfReach(ApiError):
    """Another machine has to take part and does not answer."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class UnknownItem(ApiError):
    """There is no such node, token or the like; `kind` says what was looked for."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(kind, name)
        self.kind, self.name = kind, name[:256]

    def __str__(self) -> str:
        return f"no such {self.kind}: {self.name}"


class ForbiddenHost(ApiError):
    """The request was addressed to a name that this node does not answer to (DNS rebinding looks like that)."""

    def __init__(self, host: str) -> None:
        super().__init__(host)
        self.host = host[:256]

    def __str__(self) -> str:
        return f"host {self.host!r} is not allowed; name it in the setting allowed_hosts to use it"


class ForbiddenOrigin(ApiError):
    """The request comes from a web page that is not listed."""

    def __init__(self, origin: str) -> None:
        super().__init__(origin)
        self.origin = origin[:256]

    def __str__(self) -> str:
        return f"origin {self.origin!r} is not allowed; name it in the setting origins to use it"


class NoSuchRoute(ApiError):
    """Nothing is served under this path."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path[:256]

    def __str__(self) -> str:
        return f"no such route: {self.path}"


class WrongMethod(ApiError):
    """The path exists, but not for this method."""

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(method, allowed)
        self.method, self.allowed = method[:32], allowed

    def __str__(self) -> str:
        return f"method {self.method} not allowed; use {self.allowed}"


class NotOffered(ApiError):
    """The endpoint is known, but this version can't do it."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return self.what


# The most specific class of an error decides (its method resolution order is walked).
STATUS: Mapping[type[Exception], int] = {
    BadRequest: 400,
    BodyTooLarge: 413,
    BodyTooSlow: 408,
    BodiesTooMany: 503,
    UnknownModel: 404,
    Unauthenticated: 401,
    NotGranted: 403,
    OverLimit: 429,
    Conflict: 409,
    OutOfReach: 502,
    UnknownItem: 404,
    ForbiddenHost: 403,
    ForbiddenOrigin: 403,
    NoSuchRoute: 404,
    WrongMethod: 405,
    NotOffered: 501,
    node_errors.DoesNotFit: 503,
    node_errors.LoadFailure: 500,
    node_errors.QueueFull: 503,
    node_errors.Closing: 503,
    node_errors.Unserved: 503,
    node_errors.DevicesUnknown: 503,
    node_errors.RunnerLost: 500,
    node_errors.SlowReader: 500,
    registry_errors.InvalidModelName: 400,
    registry_errors.InvalidDigest: 400,
    registry_errors.ModelNotFound: 404,
    registry_errors.BuiltinModel: 403,
    registry_errors.UnsupportedModel: 400,
    registry_errors.InvalidParameter: 400,
    registry_errors.ModelfileError: 400,
    registry_errors.InvalidGguf: 400,
    registry_errors.BlobNotFound: 404,
    registry_errors.DigestMismatch: 400,
    registry_errors.StorageFull: 507,
    registry_errors.RegistryError: 500,
    node_errors.NodeError: 500,
    OSError: 500,
}
STATUS_OF_FAILURE: Mapping[FailureKind, int] = {
    "bad_request": 400,
    "context_exceeded": 400,
    "unsupported": 400,
    "internal": 500,
}
# OSError: a folder that can't be read or written is the operator's business, and worth a clear text.
EXPECTED_ERRORS = (ApiError, node_errors.NodeError, registry_errors.RegistryError, OSError)


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as a client sees it."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def native(self) -> bytes:
        """Ollama's shape, without a line end."""
        return msgspec.json.encode({"error": self.message})

    def openai(self) -> bytes:
        """OpenAI's shape; `type` as Ollama fills it."""
        kind = {400: "invalid_request_error", 404: "not_found_error"}.get(self.status, "api_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def body(self, path: str) -> bytes:
        """The shape that the API under this path uses."""
        return self.openai() if path == "/v1" or path.startswith("/v1/") else self.native()


def fault_of(error: Exception) -> Fault:
    """What to tell the client about one of EXPECTED_ERRORS."""
    message = str(error)[:MAX_MESSAGE_CHARS]
    status = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)
    match error:
        case node_errors.JobFailed():
            failed = error.failed
            code = "context_length_exceeded" if failed.kind == "context_exceeded" else None
            return Fault(STATUS_OF_FAILURE[failed.kind], message, code)
        case node_errors.QueueFull():
            return Fault(status, message, headers={"retry-after": str(max(1, error.retry_after_s))})
        case node_errors.DoesNotFit() | node_errors.Closing() | node_errors.DevicesUnknown() | node_errors.Unserved():
            return Fault(status, message, headers={"retry-after": str(RETRY_AFTER_S)})
        case UnknownModel() | registry_errors.ModelNotFound():
            return Fault(status, message, code="model_not_found", param="model")
        case registry_errors.InvalidModelName():
            return Fault(status, "invalid model name", param="model")
        case registry_errors.InvalidDigest():
            return Fault(status, "invalid digest format")
        case BadRequest():
            return Fault(status, message, param=error.param)
        case Unauthenticated():
            return Fault(status, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        case OverLimit():
            retry = {"retry-after": str(max(1, error.retry_after_s))}
            return Fault(status, message, code="rate_limit_exceeded", headers=retry)
        case WrongMethod():
            return Fault(status, message, headers={"allow": error.allowed})
        case OSError():
            return Fault(status, f"{error.strerror or 'input/output error'}: {error.filename or 'unknown file'}")
        case BodyTooLarge() | BodyTooSlow():
            # The rest of the body is still on its way, so this connection can't carry another request.
            return Fault(status, message, headers={"connection": "close"})
        case BodiesTooMany():
            return Fault(status, message, headers={"connection": "close", "retry-after": str(RETRY_AFTER_S)})
    return Fault(status, message)

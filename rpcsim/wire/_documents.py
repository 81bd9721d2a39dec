"""The documents of agents and their callers: requests, statuses, results.

Laws of this file, from gofer.md section 16: documents are UTF-8 JSON objects; null and
missing are equal; receivers ignore keys they do not know; what kind of reply a document
is follows from its keys alone. The version is data: `"0.4"` carries the caller's data
under `any`, `"2.0"` under `data`.
"""

from __future__ import annotations

import json
import math

# msgspec reads the annotations below when the module is imported.
from collections.abc import Mapping, Sequence  # noqa: TC003
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from rpcsim.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "CLASSIC",
    "MAX_DOCUMENT",
    "MODERN",
    "InvalidRequest",
    "Invocation",
    "ReplyDocument",
    "RequestDocument",
    "Result",
    "Unencodable",
    "decode_reply",
    "decode_request",
    "encode_document",
    "request_document",
]

CLASSIC: Final = "0.4"
MODERN: Final = "2.0"
# Bytes. Arguments travel through a broker whole; what is larger belongs in a file.
MAX_DOCUMENT: Final = 1024 * 1024

T = TypeVar("T")


class Unencodable(LocalProtocolError, TypeError):
    """A value cannot be written as JSON; the message names its place and type."""


class InvalidRequest(RemoteProtocolError):
    """A document is JSON but no request; what is readable says whom to answer.

    Attributes:
        sn: Serial number; `""` if unreadable.
        version: Version it claims; `None` if unreadable.
        replyto: Address for an answer; `None` if none is wanted or readable.
        user_data: The caller's data.
    """

    def __init__(self, reason: str, envelope: _Envelope) -> None:
        super().__init__(reason)
        self.sn = envelope.sn if isinstance(envelope.sn, str) else ""
        self.version = envelope.version
        replyto = envelope.replyto
        self.replyto = replyto if isinstance(replyto, str) and replyto else None
        self.user_data = _user_data(envelope)


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """What to call: the `request` of a request document.

    Attributes:
        classname: Class or module.
        method: Its method or function.
        args: Positional arguments; `None` for none.
        kws: Keyword arguments; `None` for none.
        cntr: Constructor arguments `[args, kws]`; `None` if never given.
        kwargs: Twin of `kws` in modern documents (gofer.md 16.4).
    """

    classname: str
    method: str
    args: Sequence[Any] | None = None
    kws: Mapping[str, Any] | None = None
    cntr: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | UnsetType | None = UNSET

    @property
    def keywords(self) -> Mapping[str, Any]:
        """The keyword arguments, under whichever key they came."""
        return self.kws or self.kwargs or {}

    @property
    def constructor(self) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
        """Constructor arguments `(args, kwargs)`; `None` if never given."""
        if self.cntr is None:
            return None
        args, kws = self.cntr
        return args or (), kws or {}


class RequestDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A request; attributes are the keys of gofer.md 16.1."""

    sn: str
    version: str
    routing: Sequence[Any] | None = None
    replyto: str | None = None
    any: Any = UNSET
    data: Any = UNSET
    window: Any = None
    secret: str | None = None
    pam: Mapping[str, Any] | None = None
    request: Invocation

    @property
    def user_data(self) -> Any:
        """The caller's data, under whichever key it came."""
        return _user_data(self)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The `result` of a reply: `retval`, or `exval` and the keys beside it."""

    retval: Any = UNSET
    exval: str | UnsetType | None = UNSET
    xmodule: Any = UNSET
    xclass: Any = UNSET
    xstate: Any = UNSET
    xargs: Any = UNSET


class ReplyDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A status or result; attributes are the keys of gofer.md 16.2.

    It is a result if `result` is an object, else a status named by `status`.
    """

    sn: str
    version: str = CLASSIC
    routing: Sequence[Any] | None = None
    any: Any = UNSET
    data: Any = UNSET
    status: str | UnsetType | None = UNSET
    total: Any = UNSET
    completed: Any = UNSET
    details: Any = UNSET
    code: str | UnsetType | None = UNSET
    description: str | UnsetType | None = UNSET
    result: Result | UnsetType | None = UNSET
    timestamp: str | UnsetType | None = UNSET

    @property
    def user_data(self) -> Any:
        """The caller's data, sent back."""
        return _user_data(self)


class _Envelope(msgspec.Struct):
    """As much of any object as an answer needs."""

    sn: Any = None
    version: Any = None
    replyto: Any = None
    any: Any = UNSET
    data: Any = UNSET


def _user_data(document: RequestDocument | ReplyDocument | _Envelope) -> Any:
    for value in (document.any, document.data):
        if value is not UNSET and value is not None:
            return value
    return None


def request_document(
    *,
    sn: str,
    version: str,
    sender: str | None,
    target: str,
    replyto: str | None,
    request: Invocation,
    user_data: Any = None,
    window: Any = None,
    secret: str | None = None,
    pam: Mapping[str, Any] | None = None,
) -> RequestDocument:
    """Make a request with the keys its version uses."""
    classic = version != MODERN
    if not classic and request.kws:
        # Modern reference agents look under `kwargs` what every proxy sends as `kws`.
        request = msgspec.structs.replace(request, kwargs=request.kws)
    return RequestDocument(
        sn=sn,
        version=version,
        routing=(sender, target),
        replyto=replyto,
        any=user_data if classic else UNSET,
        data=UNSET if classic else user_data,
        window=window if classic else None,
        secret=secret,
        pam=pam,
        request=request,
    )


# -- encoding ------------------------------------------------------------------------

_encode: Final = msgspec.json.Encoder().encode
_ATOMS: Final = frozenset({str, int, bool, type(None), UnsetType})
# Deeper values are refused: parsers recurse, and the peer's limit is not ours to test.
_MAX_DEPTH: Final = 100


def encode_document(document: RequestDocument | ReplyDocument) -> bytes:
    """Write a document.

    Raises:
        Unencodable: A value in it cannot be written as JSON.
        LocalProtocolError: It is longer than `MAX_DOCUMENT`.
    """
    try:
        # msgspec writes datetimes, bytes and sets in ways of its own and NaN as null,
        # so it gets only what is plain JSON; it is then ten times as fast as json.
        if _is_plain_document(document):
            body = _encode(document)
        else:
            body = _encode_slowly(document)
    except (TypeError, ValueError, RecursionError) as error:
        raise Unencodable(_complaint(_values(document), error)) from None
    if len(body) > MAX_DOCUMENT:
        raise LocalProtocolError(
            f"the document of {document.sn} has {len(body)} bytes, and the limit is "
            f"{MAX_DOCUMENT}; pass large values by reference (a path, a URL)"
        )
    return body


def _values(document: RequestDocument | ReplyDocument) -> dict[str, Any]:
    """Give the parts of a document that users fill, by the names they know."""
    user = UNSET if document.data is UNSET else document.data
    values: dict[str, Any] = {"any": document.any, "data": user}
    if isinstance(document, RequestDocument):
        request = document.request
        values |= {"args": request.args, "kws": request.kws, "cntr": request.cntr}
        values |= {"window": document.window, "pam": document.pam}
    elif isinstance(document.result, Result):
        result = document.result
        values |= {"result": result.retval, "xstate": result.xstate}
        values["xargs"] = result.xargs
    else:
        values |= {"total": document.total, "completed": document.completed}
        values["details"] = document.details
    return {name: value for name, value in values.items() if value is not UNSET}


def _is_plain_document(document: RequestDocument | ReplyDocument) -> bool:
    values: tuple[Any, ...]
    if isinstance(document, RequestDocument):
        request = document.request
        values = (
            document.any,
            document.data,
            document.window,
            document.pam,
            request.args,
            request.kws,
            request.cntr,
        )
    elif isinstance(document.result, Result):
        result = document.result
        values = (
            document.any,
            document.data,
            result.retval,
            result.xstate,
            result.xargs,
        )
    else:
        values = (
            document.any,
            document.data,
            document.total,
            document.completed,
            document.details,
        )
    # Most are not there: those cost no call.
    for value in values:
        if type(value) not in _ATOMS and not _is_plain(value, 0):
            return False
    return True


def _is_plain(value: Any, depth: int) -> bool:
    """Say whether msgspec and the json module would write the same for `value`."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is float:
        return math.isfinite(value)
    if depth >= _MAX_DEPTH:
        raise RecursionError
    # Loops, not all(): this runs for every argument of every call.
    if kind is list or kind is tuple:
        for item in value:  # noqa: SIM110 - see above
            if not _is_plain(item, depth + 1):
                return False
        return True
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str or not _is_plain(item, depth + 1):
                return False
        return True
    return False


_slow: Final = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def _encode_slowly(document: RequestDocument | ReplyDocument) -> bytes:
    return _slow(_as_object(document)).encode()


def _as_object(struct: msgspec.Struct) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value is not UNSET:
            nested = isinstance(value, (Invocation, Result))
            shown[name] = _as_object(value) if nested else value
    return shown


def _complaint(values: Mapping[str, Any], error: Exception) -> str:
    for name, value in values.items():
        found = _culprit(value, name, 0)
        if found is not None:
            return f"JSON cannot carry {found}"
    return f"JSON cannot carry this: {error}"


def _culprit(value: Any, path: str, depth: int) -> str | None:
    """Find the first thing JSON cannot carry: `args[1]['when']: datetime`."""
    if depth > _MAX_DEPTH:
        return f"{path.split('[')[0]}: nested deeper than {_MAX_DEPTH} levels"
    if isinstance(value, str):
        return None if _is_text(value) else f"{path}: str with a lone surrogate"
    if value is None or isinstance(value, int):
        return None
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{path}: float ({value!r})"
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, (str, int, float, type(None))):
                return f"{path}: dict with a key of type {type(key).__name__}"
            found = _culprit(key, f"{path} key", depth + 1) or _culprit(
                item, f"{path}[{key!r}]", depth + 1
            )
            if found is not None:
                return found
        return None
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            found = _culprit(item, f"{path}[{i}]", depth + 1)
            if found is not None:
                return found
        return None
    return f"{path}: {type(value).__name__}"


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- decoding ------------------------------------------------------------------------

_requests: Final = msgspec.json.Decoder(RequestDocument)
_replies: Final = msgspec.json.Decoder(ReplyDocument)
_envelopes: Final = msgspec.json.Decoder(_Envelope)


def decode_request(body: bytes) -> RequestDocument:
    """Read a request.

    Raises:
        InvalidRequest: It is a JSON object, but no request; it can be answered.
        RemoteProtocolError: It is no JSON object, or longer than `MAX_DOCUMENT`.
    """
    try:
        document = _read(_requests, body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"not a request: {error}", _envelope(body)) from None
    reason = _objection(document.request)
    if reason is not None:
        raise InvalidRequest(reason, _envelope(body))
    return document


def _objection(request: Invocation) -> str | None:
    if not request.classname or not request.method:
        return "the request has an empty classname or method"
    # gofer.md 16.4: two keys for the keyword arguments must not disagree.
    if request.kws and request.kwargs and request.kws != request.kwargs:
        return "the request has different keyword arguments under kws and kwargs"
    cntr = request.cntr
    if cntr is None:
        return None
    if (
        len(cntr) != 2
        or not isinstance(cntr[0], list | None)
        or not isinstance(cntr[1], dict | None)
    ):
        return "the constructor arguments are not [[...], {...}]"
    return None


def decode_reply(body: bytes) -> ReplyDocument:
    """Read a status or result.

    Raises:
        RemoteProtocolError: It is not one, or longer than `MAX_DOCUMENT`.
    """
    try:
        document = _read(_replies, body)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"not a status or result: {error}") from None
    result = document.result
    if isinstance(result, Result):
        if result.retval is UNSET and result.exval is UNSET:
            raise RemoteProtocolError("the result has neither retval nor exval")
    elif not document.status:
        raise RemoteProtocolError("the document has neither a status nor a result")
    return document


def _envelope(body: bytes) -> _Envelope:
    try:
        return _read(_envelopes, body)
    except msgspec.ValidationError as error:
        raise RemoteProtocolError(f"not a document: {error}") from None


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    if len(body) > MAX_DOCUMENT:
        raise RemoteProtocolError(
            f"a document of {len(body)} bytes; the limit is {MAX_DOCUMENT}"
        )
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"a document is not JSON: {error}") from None

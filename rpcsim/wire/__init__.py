"""Bytes to values and back: frames and documents. No input or output happens here.

Every parser of something from a socket is in this room, with its size limit and its
errors: `LocalProtocolError` when we were asked to write what cannot be written,
`RemoteProtocolError` when a peer sent what is not allowed. Read `_documents.py` for
what agents and callers say to each other, `_frames.py` (exported as `frames`, for its
names are short) for how they talk to the broker.
"""

from rpcsim.wire import _frames as frames
from rpcsim.wire._documents import (
    CLASSIC,
    MAX_DOCUMENT,
    MODERN,
    InvalidRequest,
    Invocation,
    ReplyDocument,
    RequestDocument,
    Result,
    Unencodable,
    decode_reply,
    decode_request,
    encode_document,
    request_document,
)

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
    "frames",
    "request_document",
]

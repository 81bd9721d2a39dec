"""What an agent answers: status and result documents of one request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from rpcsim.core import describe
from rpcsim.errors import LocalProtocolError
from rpcsim.wire import ReplyDocument, Result, Unencodable, encode_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rpcsim.core import Ended
    from rpcsim.wire import InvalidRequest, RequestDocument

__all__ = ["progress_body", "rejected_body", "result_body", "started_body"]


def _reply(agent: str, request: RequestDocument, **keys: Any) -> bytes:
    return encode_document(
        ReplyDocument(
            sn=request.sn,
            version=request.version,
            routing=(agent, request.replyto),
            any=request.user_data,
            **keys,
        )
    )


def started_body(agent: str, request: RequestDocument) -> bytes:
    """Say that execution begins."""
    return _reply(agent, request, status="started")


def progress_body(
    agent: str, request: RequestDocument, values: Mapping[str, Any]
) -> bytes:
    """Say how far it is: `total`, `completed`, `details`."""
    return _reply(agent, request, status="progress", **values)


def result_body(agent: str, request: RequestDocument, ended: Ended) -> bytes:
    """Say how it ended; what JSON cannot carry becomes a `TypeError` that says so."""
    try:
        return _reply(agent, request, result=_result(ended))
    except LocalProtocolError as error:
        told = f"{request.request.classname}.{request.request.method}(): {error}"
        # Callers know TypeError whatever software they run; our own class they may not.
        kind = TypeError if isinstance(error, Unencodable) else LocalProtocolError
        return _reply(agent, request, result=_failure(kind(told)))


def rejected_body(agent: str, invalid: InvalidRequest) -> bytes:
    """Refuse a document that is no request."""
    return encode_document(
        ReplyDocument(
            sn=invalid.sn,
            routing=(agent, invalid.replyto),
            any=invalid.user_data,
            status="rejected",
            code="model.invalid",
            description="MODEL: document is not a valid request",
            details=str(invalid),
        )
    )


def _result(ended: Ended) -> Result:
    if ended.error is None:
        return Result(retval=ended.value)
    return _failure(ended.error)


def _failure(error: BaseException) -> Result:
    record = describe(error)
    return Result(
        retval=UNSET,
        exval=record.trace,
        xmodule=record.module,
        xclass=record.name,
        xstate={**record.state, "trace": record.trace},
        xargs=list(record.args),
    )

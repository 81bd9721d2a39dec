"""Frames of the broker's native front: bytes in, frozen events out; no I/O.

Laws of this file:

- A frame is a 4-byte big-endian length and that many bytes of MessagePack: one array,
  its first element the kind of the frame, the others its fields in the order below.
- The first frame each way is `Hello`; nothing else is read before it, and it is short,
  so that a peer which speaks something else is told so after a few bytes.
- A length over the limit is refused as soon as it is seen; its bytes are never kept.
- A reader that raised stays broken: what follows on such a stream has no meaning.

Kinds, versions and codes are ours, the codes those of AMQP 0-9-1 section 1.8 so that
both fronts of the broker speak of refusals alike.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec

from rpcsim.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError

__all__ = [
    "FRAME_LIMIT",
    "FRAME_LIMIT_MAX",
    "MESSAGE_ROOM",
    "PORT",
    "PROTOCOL",
    "VERSION",
    "Ack",
    "Answer",
    "Cancel",
    "Code",
    "Consume",
    "Declare",
    "Delete",
    "Deliver",
    "Failed",
    "Frame",
    "FrameDecoder",
    "FrameReader",
    "Gone",
    "Hello",
    "Ok",
    "Ping",
    "Pong",
    "Publish",
    "Request",
    "Requeue",
    "encode_frame",
    "pack_length",
]

PROTOCOL: Final = "rpcsim-broker"
VERSION: Final = 1
# Where a broker listens and is looked for, unless told otherwise.
PORT: Final = 5670
# Bytes after the length. 1 MiB is far above any document of the specs, and low enough
# that a hundred hostile connections cannot fill a small machine.
FRAME_LIMIT: Final = 1 << 20
# What a client accepts at most, whatever limit a broker announces.
FRAME_LIMIT_MAX: Final = 1 << 28
# What a frame holds beside a message's body: an address of 255 characters at four
# bytes each is the longest part. A body that leaves this much room fits both the
# `Publish` that brings it and every `Deliver` that hands it on.
MESSAGE_ROOM: Final = 1280
# A hello of ours takes under 40 bytes; a foreign first frame is refused above this.
HELLO_LIMIT: Final = 256

_PREFIX: Final = 4
_length: Final = struct.Struct(">I")
_pack: Final = _length.pack
_unpack: Final = _length.unpack_from

Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Millis: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


class Code(IntEnum):
    """Why a request failed: reply codes of AMQP 0-9-1."""

    CONTENT_TOO_LARGE = 311
    NO_ROUTE = 312
    NOT_FOUND = 404
    LOCKED = 405
    PRECONDITION_FAILED = 406
    FRAME_ERROR = 501
    RESOURCE_ERROR = 506
    NOT_ALLOWED = 530


class Frame(
    msgspec.Struct,
    frozen=True,
    array_like=True,
    forbid_unknown_fields=True,
    tag=str.lower,
    gc=False,
):
    """One event of the protocol; its kind on the wire is the class's name."""


class Hello(Frame, frozen=True):
    """The first frame each way.

    Attributes:
        protocol: `PROTOCOL`.
        version: `VERSION`; another one is refused.
        frame_limit: Longest frame, in bytes, that the sender of this hello takes.
    """

    protocol: str
    version: int
    frame_limit: Count


# -- client to broker. `request` is chosen by the client and comes back in `Ok` or
# `Failed`; with 0 the client wants no answer, and none is sent.


class Declare(Frame, frozen=True):
    """Make a queue, bound to the exchange if `queue` is `exchange/queue`."""

    request: Count
    queue: Name
    durable: bool = True
    exclusive: bool = False
    auto_delete: bool = False
    expires_ms: Millis | None = None


class Delete(Frame, frozen=True):
    """Remove a queue and what is in it."""

    request: Count
    queue: Name


class Publish(Frame, frozen=True):
    """Send a message to a queue or `exchange/queue`; `Ok` means that it is queued.

    `quiet` asks for an answer only if it is not.
    """

    request: Count
    address: Name
    body: bytes
    ttl_ms: Millis | None = None
    quiet: bool = False


class Consume(Frame, frozen=True):
    """Subscribe; `consumer` is a number of the client's choice, new each time."""

    request: Count
    queue: Name
    consumer: Count
    prefetch: Count = 0
    auto_ack: bool = False


class Cancel(Frame, frozen=True):
    """End a subscription; what it has not acknowledged goes back to the queue."""

    request: Count
    consumer: Count


class Ack(Frame, frozen=True):
    """Say that a delivery is done."""

    request: Count
    tag: Count


class Requeue(Frame, frozen=True):
    """Give a delivery back to the head of its queue."""

    request: Count
    tag: Count


class Pong(Frame, frozen=True):
    """Answer a `Ping`: this client is there."""


# -- broker to client


class Ok(Frame, frozen=True):
    """The request was carried out."""

    request: Count


class Failed(Frame, frozen=True):
    """The request was refused; with request 0 the whole connection is."""

    request: Count
    code: int
    text: str


class Deliver(Frame, frozen=True):
    """A message for a consumer; `tag` counts deliveries of the connection from 1."""

    consumer: Count
    tag: Count
    body: bytes
    redelivered: bool = False
    ttl_ms: Millis | None = None


class Gone(Frame, frozen=True):
    """The consumer's queue was removed by somebody else; the consumer is over."""

    consumer: Count
    text: str


class Ping(Frame, frozen=True):
    """Ask whether a client that holds messages is still there."""


Request: TypeAlias = (
    Declare | Delete | Publish | Consume | Cancel | Ack | Requeue | Pong
)
Answer: TypeAlias = Ok | Failed | Deliver | Gone | Ping

_encode: Final = msgspec.msgpack.Encoder().encode
_hello: Final = msgspec.msgpack.Decoder(Hello)
# By who reads: the broker reads requests, the client answers.
_bodies: Final[dict[str, msgspec.msgpack.Decoder[Any]]] = {
    "broker": msgspec.msgpack.Decoder(Request),
    "client": msgspec.msgpack.Decoder(Answer),
}
_expected: Final = {"broker": "a request", "client": "an answer"}


def pack_length(body: bytes, limit: int = FRAME_LIMIT) -> bytes:
    """Put the length before `body`.

    Raises:
        LimitExceeded: It is longer than `limit` bytes.
    """
    if len(body) > limit:
        raise LimitExceeded(
            f"a frame of {len(body)} bytes is over the limit of {limit}; send less, "
            "or raise the broker's frame_limit"
        )
    return len(body).to_bytes(_PREFIX, "big") + body


def encode_frame(frame: Frame, limit: int = FRAME_LIMIT) -> bytes:
    """Write one frame, its length included.

    Raises:
        LimitExceeded: It is longer than `limit` bytes.
        LocalProtocolError: A field cannot be carried (no valid text, a huge number).
    """
    try:
        body = _encode(frame)
    except (TypeError, ValueError, OverflowError) as error:
        kind = type(frame).__name__
        raise LocalProtocolError(f"cannot send {kind}: {error}") from error
    # As `pack_length`, without the call: every message of a run passes here twice.
    length = len(body)
    return _pack(length) + body if length <= limit else pack_length(body, limit)


class FrameReader:
    """Cuts a stream of bytes into length-prefixed bodies.

    Give it what arrives with `receive`, then call `next_body` until it gives `None`:
    between two such rounds it holds less than one frame.

    Attributes:
        limit: Longest body taken, in bytes; may be changed between frames.
        position: Bytes of the stream before the next frame.
        frames: Frames given so far.
    """

    __slots__ = ("_at", "_broken", "_buffer", "frames", "limit", "position")

    def __init__(self, limit: int = FRAME_LIMIT) -> None:
        self.limit = limit
        self.position = 0
        self.frames = 0
        self._buffer: bytes | bytearray = b""
        self._at = 0
        self._broken: str | None = None

    def __repr__(self) -> str:
        state = "broken" if self._broken else f"{self.pending} bytes pending"
        return f"<{type(self).__name__} at byte {self.position}, {state}>"

    @property
    def pending(self) -> int:
        """Bytes received and not given yet."""
        return len(self._buffer) - self._at

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take what arrived, cut anywhere."""
        if self._broken is not None:
            return
        if not self.pending:
            # Most chunks are whole frames: those are read where they are.
            self._buffer, self._at = bytes(data), 0
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer, self._at = bytearray(self._buffer[self._at :]), 0
        elif self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_body(self) -> bytes | None:
        """Give the next body, or `None` when more bytes are needed.

        Raises:
            RemoteProtocolError: The length is over the limit; raised again from then on.
        """
        if self._broken is not None:
            raise RemoteProtocolError(self._broken)
        start = self._at + _PREFIX
        if len(self._buffer) < start:
            return None
        length = int.from_bytes(self._buffer[self._at : start], "big")
        if length > self.limit:
            raise self.fail(self._overlong(length))
        end = start + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[start:end])
        self._at = end
        self.position += _PREFIX + length
        self.frames += 1
        return body

    def fail(self, problem: str) -> RemoteProtocolError:
        """Break the reader for good; the error to raise, told with the position."""
        self._broken = f"at byte {self.position} of the stream: {problem}"
        self._buffer, self._at = b"", 0
        return RemoteProtocolError(self._broken)

    def check_eof(self) -> None:
        """Say that the stream ended.

        Raises:
            RemoteProtocolError: It ended inside a frame.
        """
        if self._broken is None and self.pending:
            raise self.fail(
                f"the stream ended inside frame {self.frames + 1}, "
                f"after {self.pending} bytes of it"
            )

    def _overlong(self, length: int) -> str:
        return (
            f"frame {self.frames + 1} has {length} bytes, over the limit of "
            f"{self.limit}"
        )


class FrameDecoder(FrameReader):
    """Reads one direction of a connection: `Hello` first, then requests or answers.

    Args:
        reader: Who reads: `broker` (requests come in) or `client` (answers).
        limit: Longest frame taken after the hello, in bytes. A client goes down to
            what the broker's hello announces.
    """

    __slots__ = ("_after_hello", "_decoder", "reader")

    def __init__(
        self, reader: Literal["broker", "client"], limit: int = FRAME_LIMIT
    ) -> None:
        super().__init__(min(limit, HELLO_LIMIT))
        self.reader = reader
        self._after_hello = limit
        self._decoder = _hello

    def next_event(self) -> Frame | None:
        """Give the next event, or `None` when more bytes are needed.

        Raises:
            RemoteProtocolError: The peer broke the protocol; the text has the position
                and what was expected. Raised again from then on.
        """
        # Whole frames are read here, in one go; `next_body` has all other cases.
        body: bytes | bytearray | None = None
        buffer, at, before = self._buffer, self._at, self.position
        start, size = at + _PREFIX, len(buffer)
        if start <= size:
            length: int = _unpack(buffer, at)[0]
            end = start + length
            if end <= size and length <= self.limit:
                body = buffer[start:end]
                self._at = end
                self.position = before + end - at
                self.frames += 1
        elif at == size and self._broken is None:
            return None  # asked after every chunk, and true after most
        if body is None:
            body = self.next_body()
            if body is None:
                return None
        try:
            event: Frame = self._decoder.decode(body)
        # The last two: text that is no UTF-8, and arrays some thousands deep.
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            self.position = before
            raise self.fail(self._unreadable(body, error)) from error
        if self._decoder is _hello:
            self._greet(event)
        return event

    def _greet(self, hello: Frame) -> None:
        assert isinstance(hello, Hello)
        if (hello.protocol, hello.version) != (PROTOCOL, VERSION):
            raise self.fail(
                f"expected protocol {PROTOCOL} version {VERSION}, the peer speaks "
                f"{hello.protocol[:40]!r} version {hello.version}"
            )
        self.limit = self._after_hello
        if self.reader == "client":
            self.limit = min(self.limit, hello.frame_limit)
        self._decoder = _bodies[self.reader]

    def _unreadable(self, body: bytes | bytearray, error: Exception) -> str:
        if self._decoder is _hello:
            return _foreign(len(body).to_bytes(_PREFIX, "big") + body)
        return f"frame {self.frames} is not {_expected[self.reader]}: {error}"

    def _overlong(self, length: int) -> str:
        if self._decoder is _hello:
            seen = self._buffer[self._at : self._at + HELLO_LIMIT]
            return _foreign(bytes(seen))
        return super()._overlong(length)


def _foreign(seen: bytes) -> str:
    return (
        f"expected a hello of {PROTOCOL} version {VERSION} (at most {HELLO_LIMIT} "
        f"bytes), got {seen[:24]!r}; the peer does not speak this protocol"
    )

"""What is in flight, as a test sees it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Packet"]


@dataclass(frozen=True, slots=True)
class Packet:
    """Something on its way between two hosts.

    Attributes:
        n: Its number; later ones are greater.
        kind: `syn`, `synack`, `ack`, `data`, `fin` or `rst` of a stream, or
            `datagram`.
        src: Host that sent it.
        dst: Host it goes to.
        connection: Label of its connection, such as `client>server:80#1`.
        size: Bytes of data.
        call: Id of the call it belongs to; `""` if unknown.
        sent_at: Seconds from the start of the run to its sending.
        due_at: Seconds from the start of the run to its arrival; `None` when it is
            held, or cannot pass now.
        held: Whether only a release lets it go on.
    """

    n: int
    kind: str
    src: str
    dst: str
    connection: str = ""
    size: int = 0
    call: str = ""
    sent_at: float = 0.0
    due_at: float | None = None
    held: bool = False

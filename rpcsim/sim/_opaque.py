"""Which bytes on a stream are ciphertext, whose content no seed decides.

TLS and SSH libraries draw keys and nonces from OpenSSL's own generator, so a checksum
of what they send would differ in every run. Their lengths do follow from the plaintext
and are traced; those of handshake flights nearly so (a signature in DER may be a byte
shorter), so a flight counts as its size rounded up to 4 KiB.

The streams are told by their first bytes and not by who writes them: a client that
runs TLS by hand over memory BIOs looks the same as the standard library's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rpcsim.sim._tcp import Endpoint

__all__ = ["CIPHERS", "begins_cipher", "tls_size"]

# First byte of a TLS handshake record (RFC 8446, 5.1), and of an SSH banner ("SSH-",
# RFC 4253, 4.2).
TLS_HANDSHAKE: Final = 22
TLS_DATA: Final = 23
SSH_BANNER: Final = b"SSH-2.0-"
CIPHERS: Final = frozenset((TLS_HANDSHAKE, SSH_BANNER[0]))
_HANDSHAKE_TYPES: Final = frozenset(range(20, TLS_DATA))
FLIGHT: Final = 4096


def begins_cipher(end: Endpoint, data: bytes) -> bool:
    """Say whether a write begins TLS or SSH; both directions are opaque from then on."""
    if data[0] == TLS_HANDSHAKE and data[1:2] == b"\x03" and data[2:3] <= b"\x04":
        end.opaque = end.peer.opaque = tls_size
    elif data.startswith(SSH_BANNER):
        end.opaque = end.peer.opaque = len
    return end.opaque is not None


def tls_size(data: bytes) -> int:
    """Give the length a write of whole TLS records counts as, in bytes."""
    if data[0] in _HANDSHAKE_TYPES:
        return -(-len(data) // FLIGHT) * FLIGHT
    return len(data)

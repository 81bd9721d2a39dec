"""TLS by files, for callers that do not build an `ssl.SSLContext` themselves."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["TLS", "ssl_context"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """How one side of a connection proves itself, and whom it trusts.

    At least TLS 1.2. A server needs `cert`; with `ca` it demands certificates of its
    clients. A client checks the server's certificate and name unless told otherwise.

    Attributes:
        cert: File with the own certificate, its chain, and perhaps its key (PEM).
        key: File with the key of the certificate, if it is not in `cert`.
        ca: File with the certificates trusted; `None`: those of the system.
        verify: Whether the other side's certificate, and a server's name, are checked.
    """

    cert: str | Path | None = None
    key: str | Path | None = None
    ca: str | Path | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.key is not None and self.cert is None:
            raise ValueError(
                "TLS(key=...) needs the certificate it is the key of: cert="
            )
        if self.ca is not None and not self.verify:
            raise ValueError(
                "TLS(ca=..., verify=False) names whom to trust, and then trusts "
                "everybody; leave one out"
            )

    def client(self) -> ssl.SSLContext:
        """Make the context of a side that connects."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca is not None:
            context.load_verify_locations(self.ca)
        else:
            context.load_default_certs()
        self._load_own(context)
        return context

    def server(self) -> ssl.SSLContext:
        """Make the context of a side that listens.

        Raises:
            ValueError: It has no certificate to show.
        """
        if self.cert is None:
            raise ValueError("a listener needs TLS(cert=...): a certificate to show")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.ca is not None:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        self._load_own(context)
        return context

    def _load_own(self, context: ssl.SSLContext) -> None:
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)


def ssl_context(
    tls: TLS | ssl.SSLContext | None, *, server: bool
) -> ssl.SSLContext | None:
    """Give the context a caller means by what it passed as `tls`."""
    if isinstance(tls, TLS):
        return tls.server() if server else tls.client()
    return tls

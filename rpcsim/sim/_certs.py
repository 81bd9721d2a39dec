"""Certificates for tests: an authority and what it vouches for, made from names alone.

Keys are derived from names and signatures are Ed25519, so every run has the same
certificates, byte for byte. They are no secret and protect nothing. OpenSSL reads the
real clock, so they are valid from 1970 to the end of 2999 unless asked otherwise.
"""

from __future__ import annotations

import hashlib
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rpcsim.errors import SimulationError
from rpcsim.sim._ambient import outside

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Authority", "Certificate"]

BEGIN: Final = datetime(1970, 1, 1, tzinfo=UTC)
END: Final = datetime(2999, 12, 31, tzinfo=UTC)
LONG_AGO: Final = datetime(1980, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key.

    Attributes:
        names: Host names and addresses it is for.
        certificate: PEM, followed by nothing.
        key: Its private key, PEM.
    """

    names: tuple[str, ...]
    certificate: bytes
    key: bytes

    def load_into(self, context: ssl.SSLContext) -> None:
        """Have a context present it."""
        # `ssl` reads key pairs from files only.
        with outside(), tempfile.TemporaryDirectory(prefix="rpcsim-") as folder:
            path = Path(folder, "pair.pem")
            path.write_bytes(self.key + self.certificate)
            context.load_cert_chain(path)


class Authority:
    """A certificate authority made from a name; equal names are one authority.

    Needs the extra `tls`.

    Args:
        name: Its common name.
    """

    __slots__ = ("_key", "_serial", "_x509", "certificate", "name")

    def __init__(self, name: str = "rpcsim test authority") -> None:
        try:
            from cryptography import x509  # an extra: only its users pay
        except ImportError as error:
            raise SimulationError(
                "certificates need the package `cryptography`: install rpcsim[tls]"
            ) from error
        self._x509: Any = x509
        self.name: Final = name
        self._serial = 1
        self._key = _key_for(f"authority/{name}")
        self.certificate: Final[bytes] = self._sign(
            name, self._key.public_key(), BEGIN, END, (), authority=True
        )

    def __repr__(self) -> str:
        return f"<certificate authority {self.name!r}>"

    def issue(self, *names: str, expired: bool = False) -> Certificate:
        """Give a certificate for host names and addresses.

        Args:
            *names: The names, the first of which is the common name.
            expired: Whether its time is long over.
        """
        if not names:
            raise ValueError("a certificate needs at least one name")
        from cryptography.hazmat.primitives import serialization as form

        key = _key_for(f"{self.name}/{'/'.join(names)}")
        end = LONG_AGO if expired else END
        pem = self._sign(names[0], key.public_key(), BEGIN, end, names)
        private = key.private_bytes(
            form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
        )
        return Certificate(names, pem, private)

    def server_context(
        self,
        *names: str,
        expired: bool = False,
        alpn: Sequence[str] = (),
        client_certificates: bool = False,
    ) -> ssl.SSLContext:
        """Give a context for a server of those names.

        Args:
            *names: Host names and addresses.
            expired: Whether its certificate's time is over.
            alpn: Protocols it offers, best first.
            client_certificates: Whether clients need a certificate of this authority.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issue(*names, expired=expired).load_into(context)
        if client_certificates:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=self.certificate.decode())
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def client_context(
        self, *, identity: str | None = None, alpn: Sequence[str] = ()
    ) -> ssl.SSLContext:
        """Give a context for clients that trust this authority and no other.

        Args:
            identity: Name of the client's own certificate; `None` for none.
            alpn: Protocols it offers, best first.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.certificate.decode())
        if identity is not None:
            self.issue(identity).load_into(context)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def _sign(
        self,
        subject: str,
        key: Any,
        begin: datetime,
        end: datetime,
        names: Sequence[str],
        *,
        authority: bool = False,
    ) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding

        x509 = self._x509
        common = x509.NameOID.COMMON_NAME
        issuer = x509.Name([x509.NameAttribute(common, self.name)])
        serial, self._serial = self._serial, self._serial + 1
        own = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(common, subject)]))
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(
                x509.BasicConstraints(ca=authority, path_length=None), critical=True
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own),
                critical=False,
            )
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key), critical=False
            )
            .add_extension(_usage(x509, authority=authority), critical=True)
        )
        if names:
            listed = x509.SubjectAlternativeName([_general(x509, n) for n in names])
            builder = builder.add_extension(listed, critical=False)
        pem: bytes = builder.sign(self._key, None).public_bytes(Encoding.PEM)
        return pem


def _key_for(label: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    seed = hashlib.blake2b(label.encode(), digest_size=32, person=b"rpcsim key")
    return Ed25519PrivateKey.from_private_bytes(seed.digest())


def _usage(x509: Any, *, authority: bool) -> Any:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general(x509: Any, name: str) -> Any:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

"""
TLS: the files, whether they fit together, and what the surfaces make of them.

Whether certificate and key serve is found out by serving: a handshake with ourselves, in
memory. So it is OpenSSL that judges the pair, the times and the purpose, as a client would.
"""

import contextlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sandglass.core import limits
from sandglass.errors import InvalidError, PreconditionError
from sandglass.security.files import read_file

_END: Final = b"-----END CERTIFICATE-----"
_HANDSHAKE_STEP_COUNT: Final = 4


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """
    Where a server's certificate chain and its key lie, as PEM, and the authorities whose
    certificates clients must have; without these, clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class TlsParts:
    """What the files hold, checked. `ends` is when the certificate does, for people."""

    certificate: bytes
    key: bytes = field(repr=False)
    client_ca: bytes | None
    ends: str = field(compare=False)


def tls_files(
    certificate: Path | None, key: Path | None, client_ca: Path | None
) -> TlsFiles | None:
    """
    Files that make sense together; None for no TLS.

    Raises:
        InvalidError: one is missing; `field` names the setting.
    """
    if certificate is not None and key is not None:
        return TlsFiles(certificate, key, client_ca)
    if certificate is not None:
        raise InvalidError(
            "tls_cert_file is given without tls_key_file: a certificate needs its key",
            field="tls_key_file",
        )
    for name, value in (("tls_key_file", key), ("tls_client_ca_file", client_ca)):
        if value is not None:
            raise InvalidError(
                f"{name} is given without tls_cert_file: TLS needs a certificate and its key",
                field="tls_cert_file",
            )
    return None


def load_tls(files: TlsFiles, *, known: TlsParts | None = None) -> TlsParts:
    """
    Reads and checks.

    Args:
        known: what was read before; it comes back, unchecked, if the files hold the same.

    Raises:
        NotFoundError: a file isn't there, or can't be read.
        InvalidError: one holds something else, or certificate and key don't belong together.
        PreconditionError: the certificate has expired, isn't valid yet, or is for another use;
            others have a right to the key.
    """
    certificate = _read(files.certificate, "certificate file")
    key = _read_key(files.key)
    client_ca = None if files.client_ca is None else read_authorities(files.client_ca)
    if known is not None and known == TlsParts(certificate, key, client_ca, ""):
        return known
    context = pair_context(ssl.PROTOCOL_TLS_SERVER, files.certificate, files.key)
    ends = _ends_after_trial(context, certificate, files.certificate)
    return TlsParts(certificate, key, client_ca, ends)


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """
    What a listener of Python's own needs. New files can be loaded into it with
    `load_cert_chain`, for connections that come later.

    Raises:
        As `load_tls`.
    """
    load_tls(files)
    context = pair_context(ssl.PROTOCOL_TLS_SERVER, files.certificate, files.key)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if files.client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.client_ca)
    return context


def peer_context(files: TlsFiles) -> ssl.SSLContext:
    """
    What a node needs to speak to another, as it is spoken to: it shows the certificate, and
    wants one of the authorities that clients need; without these, of the system's.

    Raises:
        As `pair_context`.
    """
    context = pair_context(ssl.PROTOCOL_TLS_CLIENT, files.certificate, files.key)
    if files.client_ca is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=read_authorities(files.client_ca).decode())
    return context


def read_authorities(path: Path) -> bytes:
    """
    Certificates of authorities, as PEM.

    Raises:
        NotFoundError: it isn't there, or can't be read.
        InvalidError: it holds no certificate.
    """
    content = _read(path, "file of authorities")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=content.decode("ascii", "replace")
        )
    except (ssl.SSLError, ValueError):
        raise InvalidError(f"file of authorities {path} holds no certificate in PEM") from None
    return content


def pair_context(protocol: int, certificate: Path, key: Path) -> ssl.SSLContext:
    """
    A context with a certificate and its key.

    Raises:
        NotFoundError: a file isn't there, or can't be read.
        InvalidError: one holds something else, or they don't belong together.
        PreconditionError: others have a right to the key.
    """
    chain = _read(certificate, "certificate file")
    if _END not in chain:
        raise InvalidError(f"certificate file {certificate} holds no certificate in PEM")
    if b"ENCRYPTED" in _read_key(key):
        raise InvalidError(f"key file {key} is encrypted; it must be readable without a word")
    context = ssl.SSLContext(protocol)
    try:
        # With a password at hand, OpenSSL never asks at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise InvalidError(
                f"key file {key} does not belong to certificate file {certificate}"
            ) from error
        raise InvalidError(
            f"certificate file {certificate} and key file {key} can't be understood as PEM"
            f" of a certificate and its key: {error.reason or 'unknown form'}"
        ) from error
    return context


def _read(path: Path, what: str, *, is_private: bool = False) -> bytes:
    return read_file(
        path, what=what, bytes_max=limits.TLS_FILE_BYTES_MAX, is_private=is_private
    )


def _read_key(path: Path) -> bytes:
    """A key is its owner's alone: who has it is the node, to all that trust its certificate."""
    return _read(path, "key file", is_private=True)


def _ends_after_trial(context: ssl.SSLContext, chain: bytes, path: Path) -> str:
    """When the certificate ends, after a handshake in which it had to prove itself."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    # The certificate itself is what is trusted: whoever issued it may be unknown here.
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    leaf = chain[: chain.index(_END) + len(_END)]
    trusting.load_verify_locations(cadata=leaf.decode("ascii", "replace"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server)
    try:
        for _ in range(_HANDSHAKE_STEP_COUNT):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise PreconditionError(
            f"certificate file {path} cannot serve: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise InvalidError(f"certificate file {path} cannot serve: {error.reason}") from error
    found = client.getpeercert()
    return str(found["notAfter"]) if found else ""

"""
How a client gets in: TLS, and the token that it shows.

Files are read anew for each connection, and a token for each call, so that both can be renewed
while the client runs. Nothing here has an event loop: it serves both clients.
"""

from __future__ import annotations  # grpc's classes take parameters only in their stubs

import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from sandglass.core import limits
from sandglass.errors import InvalidError, PreconditionError, SandglassError
from sandglass.security.files import read_file
from sandglass.security.reach import is_loopback_text
from sandglass.security.tls import pair_context, read_authorities

_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)
"""Where systems keep the authorities that they trust, beside the place that OpenSSL knows."""


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """
    TLS that needs more said than True.

    Args:
        ca_file: authorities to trust, PEM; by default the system's.
        certificate_file, key_file: what to show to a node that asks for a certificate, PEM.
        server_name: the name that the node's certificate must have; by default the host of the
            address.
    """

    ca_file: str | Path | None = None
    certificate_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str = ""


TOKEN_FILE_BYTES_MAX: Final = 2 * limits.TOKEN_LENGTH_MAX
"""A token, and what an editor may have put around it."""

Tls: TypeAlias = "bool | str | Path | TlsOptions | grpc.ChannelCredentials | None"
Token: TypeAlias = "str | Path | Callable[[], str] | None"


@dataclass(frozen=True, slots=True)
class Entry:
    """TLS and token of a client, checked."""

    tls: TlsOptions | grpc.ChannelCredentials | None
    token: Token = field(repr=False)

    @property
    def hint(self) -> str:
        """What may be wrong when a node closes the connection without a word."""
        if self.tls is None:
            return "; does it want TLS?"
        if isinstance(self.tls, TlsOptions) and self.tls.certificate_file is None:
            return "; does it want a certificate?"
        return ""

    def credentials(self) -> grpc.ChannelCredentials | None:
        """
        For a new connection; None for no TLS.

        Raises:
            SandglassError: a file isn't there, or not what it should be.
        """
        if not isinstance(self.tls, TlsOptions):
            return self.tls
        options = self.tls
        roots = _system_roots() if options.ca_file is None else _authorities(options.ca_file)
        certificate, key = _pair(options)
        return grpc.ssl_channel_credentials(roots, key, certificate)

    def channel_options(self, host: str) -> list[tuple[str, str | int]]:
        """What gRPC has to be told for a connection to `host`."""
        options: list[tuple[str, str | int]] = []
        if isinstance(self.tls, TlsOptions) and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        if is_loopback_text(host):
            # A proxy would take what is meant for this machine, unencrypted, to another.
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def current_token(self) -> str:
        """
        The token to show now; empty for none.

        Raises:
            SandglassError: its file isn't there, or what there is is no token.
        """
        token = self.token
        if token is None:
            return ""
        if isinstance(token, Path):
            content = read_file(
                token, what="token file", bytes_max=TOKEN_FILE_BYTES_MAX, is_private=False
            )
            return _checked_token(content.decode("ascii", "replace").strip(), str(token))
        return _checked_token(token() if callable(token) else token, "token")

    def has_other_token(self, shown: str) -> bool:
        """Whether there is a token to try that isn't the one that was shown."""
        try:
            return self.current_token() not in {"", shown}
        except SandglassError:
            return False


def metadata_of(token: str) -> tuple[tuple[str, str], ...]:
    """What goes with a call to show a token; nothing for an empty one."""
    return (("authorization", f"Bearer {token}"),) if token else ()


def entry_of(tls: Tls, token: Token, *, hosts: Iterable[str], insecure: bool) -> Entry:
    """
    TLS and token as a user of the client gives them.

    Args:
        hosts: where the client may connect to.
        insecure: send the token to other machines although nothing is encrypted.

    Raises:
        InvalidError: they are none.
        PreconditionError: the token would go to another machine in plain text.
        NotFoundError: a file isn't there, or can't be read.
    """
    options = _tls_of(tls)
    entry = Entry(options, None if token == "" else token)
    entry.credentials()
    if not callable(token):
        entry.current_token()
    others = [each for each in hosts if not is_loopback_text(each)]
    if entry.token is not None and options is None and others and not insecure:
        raise PreconditionError(
            f"the token would go to {others[0]} unencrypted: give tls, or insecure where the"
            " network is trusted",
            field="tls",
        )
    return entry


def _tls_of(tls: Tls) -> TlsOptions | grpc.ChannelCredentials | None:
    if tls is None or tls is False:
        return None
    if tls is True:
        return TlsOptions()
    if isinstance(tls, str | Path):
        return TlsOptions(ca_file=tls)
    if isinstance(tls, TlsOptions | grpc.ChannelCredentials):  # pyright: ignore[reportUnnecessaryIsInstance] - a caller without a type checker
        return tls
    raise InvalidError(
        f"tls is {type(tls).__name__}; give True, a path, TlsOptions, or credentials of gRPC",
        field="tls",
    )


def _authorities(path: str | Path) -> bytes:
    return read_authorities(Path(path))


def _pair(options: TlsOptions) -> tuple[bytes | None, bytes | None]:
    """Certificate chain and key; None and None for nothing to show."""
    if options.certificate_file is None and options.key_file is None:
        return None, None
    if options.certificate_file is None or options.key_file is None:
        raise InvalidError(
            "a certificate and its key go together: give both, or neither",
            field="key_file" if options.key_file is None else "certificate_file",
        )
    certificate, key = Path(options.certificate_file), Path(options.key_file)
    pair_context(ssl.PROTOCOL_TLS_CLIENT, certificate, key)
    return certificate.read_bytes(), key.read_bytes()


def _system_roots() -> bytes | None:
    """What this machine trusts; None, which is gRPC's own list, where nothing is found."""
    paths = ssl.get_default_verify_paths()
    for place in (os.environ.get(paths.openssl_cafile_env), paths.openssl_cafile, *_BUNDLES):
        if place and os.path.isfile(place):
            return read_authorities(Path(place))
    return None


def _checked_token(token: object, where: str) -> str:
    """No error has the token in it, nor a part of one."""
    if not isinstance(token, str):
        raise InvalidError(f"{where} gives {type(token).__name__}; it must be a str")
    is_text = token.isascii() and token.isprintable() and " " not in token
    if not is_text or not 0 < len(token) <= limits.TOKEN_LENGTH_MAX:
        raise InvalidError(
            f"{where} holds no token: 1 to {limits.TOKEN_LENGTH_MAX} characters without spaces",
            field="token",
        )
    return token

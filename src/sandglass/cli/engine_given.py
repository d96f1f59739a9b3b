"""What settings of an operator's own engine must be."""

from typing import Final
from urllib.parse import urlsplit

from sandglass.cluster.engines import GivenConfig
from sandglass.errors import InvalidError
from sandglass.security.files import read_file
from sandglass.security.reach import is_loopback_text
from sandglass.security.tls import read_authorities
from sandglass.settings import Settings

PORT: Final = 4222
CREDENTIALS_BYTES_MAX: Final = 4096
CREDS_MARK: Final = b"-----BEGIN NATS USER JWT-----"


def given_of(settings: Settings) -> GivenConfig | None:
    """
    The engine that the settings name; None if the nodes are to run their own.

    Raises:
        InvalidError: an address is none, or shows a password; settings don't make sense
            together; credentials would cross a network unencrypted.
        PreconditionError: others may read the credentials.
        NotFoundError: a file can't be read.
    """
    if not settings.engine_url:
        for name in ("engine_credentials_file", "engine_ca_file"):
            if getattr(settings, name) is not None:
                raise InvalidError(f"{name} is given without engine_url", field=name)
        return None
    for name in ("initial_peers", "engine_binary"):
        if getattr(settings, name):
            raise InvalidError(
                f"{name} is given with engine_url: an engine of your own has neither peers nor"
                " a program of ours",
                field=name,
            )
    urls = tuple(dict.fromkeys(map(_checked, settings.engine_url)))
    user, password = _credentials_of(settings, urls)
    if settings.engine_ca_file is not None:
        if not all(url.startswith("tls://") for url in urls):
            raise InvalidError(
                "engine_ca_file is given, and engine_url is not tls:// throughout",
                field="engine_ca_file",
            )
        read_authorities(settings.engine_ca_file)
    return GivenConfig(urls, user, password, settings.engine_ca_file)


def _checked(text: str) -> str:
    """An address with its port. What is wrong with it is said without it: it may be secret."""
    try:
        parts = urlsplit(text)
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise _wrong() from None
    if parts.username is not None or parts.password is not None:
        raise InvalidError(
            "engine_url has a user in it: give what to show by engine_credentials_file",
            field="engine_url",
        )
    is_plain = parts.path in {"", "/"} and not parts.query and not parts.fragment
    if parts.scheme not in {"nats", "tls"} or not parts.hostname or not is_plain or not port:
        raise _wrong()
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _wrong() -> InvalidError:
    return InvalidError(
        "engine_url has an address that is none; each is to be nats://host:port or"
        " tls://host:port",
        field="engine_url",
    )


def _credentials_of(settings: Settings, urls: tuple[str, ...]) -> tuple[str, str]:
    path = settings.engine_credentials_file
    if path is None:
        return "", ""
    content = read_file(
        path,
        what="engine_credentials_file",
        bytes_max=CREDENTIALS_BYTES_MAX,
        is_private=True,
    )
    if CREDS_MARK in content:
        raise InvalidError(
            f"engine_credentials_file {path} is a .creds file of NATS, which nodes can't show:"
            " give the account a user with a password, or a token",
            field="engine_credentials_file",
        )
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(text.splitlines()) != 1:
        raise InvalidError(
            f"engine_credentials_file {path} is to hold one line: user:password, or a token",
            field="engine_credentials_file",
        )
    open_urls = [url for url in urls if not url.startswith("tls://") and not _is_near(url)]
    if open_urls and not settings.insecure:
        raise InvalidError(
            f"engine_credentials_file would be sent to {open_urls[0]} unencrypted: give a"
            " tls:// address, or --insecure where the network is trusted",
            field="engine_credentials_file",
        )
    user, colon, password = text.partition(":")
    return (user, password) if colon else ("", text)


def _is_near(url: str) -> bool:
    return is_loopback_text(urlsplit(url).hostname or "")

"""
What a node asks of those who come: its TLS and its tokens, read at the start and kept fresh.

Rules
1. At the start everything has to be in order, or nothing starts.
2. Later, the files are read again every second. What is in order counts from then on. What
   isn't changes nothing: the certificate before it serves on, the tokens before it stay valid,
   and the log says so until the file is mended. A slip in an editor doesn't stop a node.
"""

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

from sandglass.core import limits
from sandglass.errors import SandglassError
from sandglass.security.guard import Guard
from sandglass.security.tls import TlsFiles, TlsParts, load_tls, server_context
from sandglass.security.tokens import Tokens, read_tokens

REFUSED_REPORT_TURNS: Final = 10
"""Refused calls are told of together, once in so many looks at the files."""

logger = logging.getLogger("sandglass.security")


class Access:
    """
    `guard` is None where nobody is asked for a token, `tls` where nothing is encrypted.

    Args:
        token_file: see `sandglass.security.tokens`.

    Raises:
        SandglassError: a file isn't there, isn't in order, or others have a right to it.
    """

    def __init__(
        self, *, tls_files: TlsFiles | None = None, token_file: Path | None = None
    ) -> None:
        self._tls_files = tls_files
        self._token_file = token_file
        self._tokens: Tokens = {} if token_file is None else read_tokens(token_file)
        self._trouble: dict[str, str] = {}
        self._contexts: list[ssl.SSLContext] = []
        self.tls: TlsParts | None = None if tls_files is None else load_tls(tls_files)
        self.guard: Guard | None = None if token_file is None else Guard(self._tokens)

    def https_context(self) -> ssl.SSLContext | None:
        """
        For a listener of Python's own. New certificates find their way into it; new authorities
        for clients need a restart.
        """
        if self._tls_files is None:
            return None
        context = server_context(self._tls_files)
        self._contexts.append(context)
        return context

    async def watch(self) -> None:
        """Keeps everything fresh, until it is cancelled."""
        told_count, turn = 0, 0
        while self._tls_files is not None or self._token_file is not None:
            await asyncio.sleep(limits.SECURITY_REREAD_MS / 1000)
            try:
                # In a thread: who knows what kind of disk the files lie on.
                self._take(*await asyncio.to_thread(self._read))
            except Exception:  # a watch that ends would let revoked tokens in
                logger.exception("token file and certificate were not read again")
            turn += 1
            if turn % REFUSED_REPORT_TURNS == 1 and self.guard is not None:
                told_count = self._tell_refused(told_count)

    def _tell_refused(self, told_count: int) -> int:
        assert self.guard is not None
        count = self.guard.refused_count
        if count > told_count:
            logger.warning("%d calls without a valid token were refused", count - told_count)
        return count

    def _take(self, tokens: Tokens | None, tls: TlsParts | None) -> None:
        if tokens is not None and tokens != self._tokens and self.guard is not None:
            added = sorted(tokens[each] for each in tokens.keys() - self._tokens.keys())
            self._tokens = tokens
            revoked = self.guard.replace(tokens)
            logger.info("tokens changed: added %s, revoked %s", added, revoked)
        if tls is not None and tls != self.tls and self._tls_files is not None:
            for context in self._contexts:
                context.load_cert_chain(self._tls_files.certificate, self._tls_files.key)
            self.tls = tls
            logger.info("the certificate changed: the new one ends %s", tls.ends)

    def _read(self) -> tuple[Tokens | None, TlsParts | None]:
        """What the files hold now; None for what isn't in order."""
        tokens, tls = None, None
        if self._token_file is not None:
            try:
                tokens = read_tokens(self._token_file)
                self._mended("tokens")
            except SandglassError as error:
                self._complain("tokens", error)
        if self._tls_files is not None:
            try:
                tls = load_tls(self._tls_files, known=self.tls)
                self._mended("certificate")
            except SandglassError as error:
                self._complain("certificate", error)
        return tokens, tls

    def _complain(self, what: str, error: SandglassError) -> None:
        if self._trouble.get(what) != error.message:
            logger.error("the %s known before stay in use: %s", what, error.message)
        self._trouble[what] = error.message

    def _mended(self, what: str) -> None:
        if self._trouble.pop(what, None) is not None:
            logger.info("the file with the %s is in order again", what)

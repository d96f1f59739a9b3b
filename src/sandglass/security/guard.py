"""
The guard: who is let in, and for how long.

    admission = guard.admit(values of the header `authorization`)
    async with guard.held(admission):
        ...  # a stream; it ends with UnauthenticatedError when the token is revoked

Rules
1. Every call is admitted before any work is done for it.
2. What is looked up is the hash of what was sent. However long that takes, it could at most
   tell of the hashes in the file, and from a hash nobody comes to a token; the last comparison
   takes constant time all the same.
3. No error and no log line has a token in it, nor a part of one.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from sandglass.core import limits
from sandglass.errors import UnauthenticatedError
from sandglass.security.tokens import Tokens, digest_of

MISSING: Final = "this node wants a token: send the header `authorization: Bearer TOKEN`"
UNKNOWN: Final = "the token is not one that this node knows; it may have been revoked"
REVOKED: Final = "the token was revoked"

_NOBODY: Final = (b"", "")


@dataclass(frozen=True, slots=True)
class Admission:
    """Somebody was let in: the name of the token."""

    name: str
    digest: bytes = field(repr=False)


class Guard:
    """
    Knows the tokens, and who is in. For one event loop.

    Invariant: whoever is held has a token that is known.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.refused_count = 0
        self._tokens = _known(tokens)
        self._held: dict[bytes, set[Callable[[], None]]] = {}

    def admit(self, values: Sequence[str | bytes]) -> Admission:
        """
        Lets a call in.

        Args:
            values: of its header `authorization`, all that there are.

        Raises:
            UnauthenticatedError: not one token that is known.
        """
        token = _token_of(values)
        if token is None:
            self.refused_count += 1
            raise UnauthenticatedError(MISSING)
        digest = digest_of(token)
        known, name = self._tokens.get(digest, _NOBODY)
        if not hmac.compare_digest(known, digest):
            self.refused_count += 1
            raise UnauthenticatedError(UNKNOWN)
        return Admission(name, digest)

    @asynccontextmanager
    async def held(self, admission: Admission) -> AsyncIterator[None]:
        """
        Cancels the block when the token is revoked.

        Raises:
            UnauthenticatedError: that happened, and `is_result_unknown`; or it had happened
                before, and nothing was begun.
        """
        if admission.digest not in self._tokens:
            raise UnauthenticatedError(REVOKED)
        task = asyncio.current_task()
        assert task is not None
        is_revoked = False

        def revoke() -> None:
            nonlocal is_revoked
            is_revoked = True
            task.cancel()

        held = self._held.setdefault(admission.digest, set())
        held.add(revoke)
        try:
            yield
        except asyncio.CancelledError:
            # Another's cancellation passes, also one that came together with ours.
            if is_revoked and task.uncancel() == 0:
                raise UnauthenticatedError(REVOKED, is_result_unknown=True) from None
            raise
        finally:
            held.discard(revoke)
            if not held:
                self._held.pop(admission.digest, None)

    def replace(self, tokens: Tokens) -> list[str]:
        """Other tokens from now on; gives the names of those that are revoked by it."""
        gone = self._tokens.keys() - tokens.keys()
        names = sorted(self._tokens[digest][1] for digest in gone)
        self._tokens = _known(tokens)
        for digest in gone:
            for revoke in list(self._held.get(digest, ())):
                revoke()
        return names


def _known(tokens: Tokens) -> dict[bytes, tuple[bytes, str]]:
    return {digest: (digest, name) for digest, name in tokens.items()}


def _token_of(values: Sequence[str | bytes]) -> str | None:
    """The token of a header; None if there isn't exactly one, or it is too long."""
    if len(values) != 1:
        return None
    value = values[0]
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    scheme, _, token = text.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not 0 < len(token) <= limits.TOKEN_LENGTH_MAX:
        return None
    return token

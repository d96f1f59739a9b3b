"""Rules of claims that the simulation must miss: see `sandglass.testing.rules`."""

from collections.abc import Callable, Iterable
from typing import Any

from sandglass.core import claim
from sandglass.core.done import DoneRanges
from sandglass.core.group import Group
from sandglass.core.lease import Lease
from sandglass.core.retry_rows import RetryPart
from sandglass.core.returning import Returning

Replacement = tuple[object, str, Callable[..., Any]]
Rules = dict[str, tuple[str, Callable[[], list[Replacement]]]]


def _wait_for_nobody(self: Group, *_: int) -> list[str]:
    assert self.returning is not None
    self.returning.owners.clear()
    self.is_ready = True
    return []


def _detach_nobody(wait: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def waited(self: Group, *times_ms: int) -> list[str]:
        if wait(self, *times_ms):
            self.is_ready = True
        return []

    return waited


def _all_of(self: Returning, part: RetryPart) -> Iterable[RetryPart]:
    del self
    return (part,)


def _lease_by_own_token(self: Group, token: int) -> Lease | None:
    return self.leases.get(token)


CLAIM_RULES: Rules = {
    "wait": (
        "a group waits for those who were attached",
        lambda: [(Group, "wait_for_claims", _wait_for_nobody)],
    ),
    "detach": (
        "who comes too late is detached before anything is handed out",
        lambda: [(Group, "wait_for_claims", _detach_nobody(Group.wait_for_claims))],
    ),
    "claimed": (
        "what is claimed in the main order is not handed out",
        lambda: [(Group, "pass_by", lambda *_: None)],
    ),
    "claimed-retry": (
        "what is claimed of a retry row is not handed out",
        lambda: [(Returning, "unclaimed", _all_of)],
    ),
    "claim-ends": (
        "what was claimed of a retry row, and was moved, comes again",
        lambda: [(DoneRanges, "drop", lambda *_: None)],
    ),
    "unmoved": (
        "what was moved since it was handed out can't be claimed",
        lambda: [(vars(claim)["_Parts"], "_is_unmoved", lambda *_: True)],
    ),
    "going": (
        "what has an outcome on its way can't be claimed",
        lambda: [(claim, "coming", lambda *_: [])],
    ),
    "claimed-generation": (
        "what was leased before a group was moved can't be claimed",
        lambda: [(claim, "_is_current", lambda *_: True)],
    ),
    "other-way": (
        "what a session goes on with by another way is its own there",
        lambda: [(claim, "go_on", lambda *_: None)],
    ),
    "other-way-settled": (
        "what is claimed by another way is settled if all of it is",
        lambda: [(claim, "is_settled", lambda *_: True)],
    ),
    "renewed": (
        "an outcome under the old token is taken for the claimed lease",
        lambda: [(Group, "lease", _lease_by_own_token)],
    ),
}
"""Name of a rule, what it says, and what to replace to be without it."""

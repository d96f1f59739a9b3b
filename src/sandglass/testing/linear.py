"""
Is a history of one key linearizable?

Each operation has a moment at which it was called and one at which it was answered; between the
two it takes effect at once. A history is linearizable if such moments can be chosen so that
every answer is that of a plain variable. The search goes through calls and answers in their
order and keeps every state that the variable could be in: what it holds, and which of the
operations that are open have taken effect.

Source: G. Lowe, "Testing for linearizability", 2017: the just-in-time algorithm.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Call:
    """
    A put writes `value`, a get has shown it (None for nothing), a delete has None.

    `existed` is what a delete answered; None if nobody was told. `called` and `answered` are
    places in one order of all such moments, each used once. Without an answer, it takes effect
    at some moment after the call, or never.
    """

    kind: str
    value: bytes | None
    called: int
    answered: int | None
    existed: bool | None = None


class _State(NamedTuple):
    value: bytes | None
    done: frozenset[int]
    """Places of open calls that have taken effect."""


def explain(calls: Iterable[Call]) -> str:
    """What is wrong with a history; empty if it is linearizable."""
    known = list(calls)
    moments = [(each.called, place, False) for place, each in enumerate(known)]
    moments += [
        (each.answered, place, True)
        for place, each in enumerate(known)
        if each.answered is not None
    ]
    states = {_State(None, frozenset())}
    open_calls: set[int] = set()
    for _, place, is_answer in sorted(moments):
        if not is_answer:
            open_calls.add(place)
            continue
        reached = _reachable(states, known, open_calls)
        states = {
            _State(state.value, state.done - {place})
            for state in reached
            if place in state.done
        }
        open_calls.discard(place)
        if not states:
            return f"{known[place]} has an answer that nothing explains"
    return ""


def _reachable(states: set[_State], calls: list[Call], open_calls: set[int]) -> set[_State]:
    found = set(states)
    waiting = list(states)
    while waiting:
        state = waiting.pop()
        for place in open_calls - state.done:
            after = _after(state, place, calls[place])
            if after is not None and after not in found:
                found.add(after)
                waiting.append(after)
    return found


def _after(state: _State, place: int, call: Call) -> _State | None:
    """The state once a call has taken effect; None if its answer says that it hasn't now."""
    done = state.done | {place}
    if call.kind == "get":
        return _State(state.value, done) if state.value == call.value else None
    if call.existed is not None and call.existed != (state.value is not None):
        return None
    return _State(call.value, done)

"""The judge of histories of one key, by example."""

from sandglass.testing.linear import Call, explain


def put(value: bytes, called: int, answered: int) -> Call:
    return Call("put", value, called, answered)


def put_unanswered(value: bytes, called: int) -> Call:
    return Call("put", value, called, None)


def get(value: bytes | None, called: int, answered: int) -> Call:
    return Call("get", value, called, answered)


def delete(existed: bool | None, called: int, answered: int) -> Call:
    return Call("delete", None, called, answered, existed)


def test_an_empty_history_is_linearizable() -> None:
    assert not explain([])


def test_a_get_after_an_answered_put_shows_it() -> None:
    assert not explain([put(b"a", 0, 1), get(b"a", 2, 3)])
    assert explain([put(b"a", 0, 1), get(None, 2, 3)])
    assert explain([get(b"a", 0, 1), put(b"a", 2, 3)])


def test_a_get_beside_a_put_may_show_it_or_not_but_never_goes_back() -> None:
    assert not explain([put(b"a", 0, 9), get(None, 1, 2), get(b"a", 3, 4)])
    assert explain([put(b"a", 0, 9), get(b"a", 1, 2), get(None, 3, 4)])


def test_puts_side_by_side_take_any_one_order() -> None:
    both = [put(b"a", 0, 10), put(b"b", 1, 11)]

    assert not explain([*both, get(b"a", 12, 13)])
    assert not explain([*both, get(b"b", 12, 13)])
    assert explain([*both, get(b"a", 12, 13), get(b"b", 14, 15)])
    assert not explain([*both, get(b"b", 2, 3), get(b"a", 4, 5)])
    assert explain([*both, get(b"b", 2, 3), get(b"a", 4, 5), get(b"b", 6, 7)])


def test_a_delete_tells_what_it_found() -> None:
    assert not explain([put(b"a", 0, 1), delete(True, 2, 3), get(None, 4, 5)])
    assert not explain([delete(False, 0, 1)])
    assert explain([put(b"a", 0, 1), delete(False, 2, 3)])
    assert explain([delete(True, 0, 1)])
    assert not explain([put(b"a", 0, 9), delete(True, 1, 2)])
    assert not explain([put(b"a", 0, 9), delete(None, 1, 8), get(b"a", 10, 11)])


def test_a_put_that_nobody_answered_happens_once_at_any_time_or_never() -> None:
    history = [put(b"a", 0, 1), put_unanswered(b"b", 2)]

    assert not explain([*history, get(b"a", 3, 4)])
    assert not explain([*history, get(b"a", 3, 4), get(b"b", 5, 6)])
    assert explain([*history, get(b"b", 3, 4), get(b"a", 5, 6)])
    again = put(b"c", 5, 6)
    assert explain([*history, get(b"b", 3, 4), again, get(b"c", 7, 8), get(b"b", 9, 10)])
    assert explain([get(b"b", 0, 1), put_unanswered(b"b", 2)])

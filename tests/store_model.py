"""What a store must do, on a dict."""

from sandglass.core.view import Changes


def carry_out(changes: Changes, model: dict[bytes, bytes]) -> None:
    """What `Store.write` does: the cuts, then the rows."""
    for first, end in changes.cuts:
        for key in [key for key in model if first <= key < end]:
            del model[key]
    for key, value in changes.rows.items():
        if value is None:
            model.pop(key, None)
        else:
            model[key] = value

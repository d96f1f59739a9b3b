"""What operators do, for threads: the same names as `AsyncAdmin`."""

import functools
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from sandglass.client._async.admin import AsyncAdmin
from sandglass.client.operating import StoredDeadLetter

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _blocking(
    method: Callable[Concatenate[AsyncAdmin, Arguments], Coroutine[Any, Any, Result]],
) -> "Callable[Concatenate[Admin, Arguments], Result]":
    """The method of the same name, which waits for the end of that of `AsyncAdmin`."""

    @functools.wraps(method)
    def call(self: "Admin", *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        async def run() -> Result:
            return await method(self.admin(), *args, **kwargs)

        return self.call(run())

    return call


class Admin:
    """`Client.admin`: `admin` gives that of the client's loop, `call` waits for it."""

    def __init__(
        self, admin: Callable[[], AsyncAdmin], call: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self.admin = admin
        self.call = call

    set_topic = _blocking(AsyncAdmin.set_topic)
    groups = _blocking(AsyncAdmin.groups)
    group = _blocking(AsyncAdmin.group)
    create_group = _blocking(AsyncAdmin.create_group)
    set_group = _blocking(AsyncAdmin.set_group)
    seek_group = _blocking(AsyncAdmin.seek_group)
    delete_group = _blocking(AsyncAdmin.delete_group)
    list_dead_letters = _blocking(AsyncAdmin.list_dead_letters)
    count_dead_letters = _blocking(AsyncAdmin.count_dead_letters)
    redrive_dead_letters = _blocking(AsyncAdmin.redrive_dead_letters)
    purge_dead_letters = _blocking(AsyncAdmin.purge_dead_letters)
    show_cluster = _blocking(AsyncAdmin.show_cluster)
    show_clock = _blocking(AsyncAdmin.show_clock)
    accept_clock = _blocking(AsyncAdmin.accept_clock)
    drain_node = _blocking(AsyncAdmin.drain_node)
    undrain_node = _blocking(AsyncAdmin.undrain_node)
    remove_node = _blocking(AsyncAdmin.remove_node)
    count_pending = _blocking(AsyncAdmin.count_pending)
    list_pending = _blocking(AsyncAdmin.list_pending)

    def dead_letters(
        self,
        topic: str,
        *,
        group: str = "",
        channel: str = "",
        reason: str = "",
        newest_first: bool = False,
        with_messages: bool = False,
    ) -> Iterator[StoredDeadLetter]:
        """All dead letters of a filter, page by page."""
        token = b""
        while True:
            page = self.list_dead_letters(
                topic,
                group=group,
                channel=channel,
                reason=reason,
                newest_first=newest_first,
                page_token=token,
                with_messages=with_messages,
            )
            yield from page.letters
            token = page.next_page_token
            if not token:
                return

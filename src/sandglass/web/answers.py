"""
Answers, good and bad: JSON, and the prototype's form of an error.

The body of an error is `{"error", "message", "code"}`, as the prototype had it. What our own
protocols say beyond that stands in headers: `Sandglass-Reason` (the code of
`sandglass.errors`), `Sandglass-Field`, `Sandglass-Result: unknown`, and `Retry-After`.
"""

import asyncio
import json
from base64 import b64encode
from http import HTTPStatus
from typing import Any, Final

from google.protobuf.message import Message
from starlette.responses import Response

from sandglass.errors import SandglassError
from sandglass.wire import gateway, status

JSON_TYPE: Final = "application/json"

SHOWN_COUNT: Final = 200
"""Topics or groups that are shown before others have the loop: some 5 ms."""

_GRPC_NUMBERS: Final = {
    HTTPStatus.BAD_REQUEST: 3,
    HTTPStatus.UNAUTHORIZED: 16,
    HTTPStatus.FORBIDDEN: 7,
    HTTPStatus.REQUEST_TIMEOUT: 1,
    HTTPStatus.SERVICE_UNAVAILABLE: 14,
    HTTPStatus.GATEWAY_TIMEOUT: 4,
}
"""For refusals that only HTTP knows; any other is INVALID_ARGUMENT."""


class Refusal(Exception):
    """A request that HTTP itself refuses: its head, its form, its pace."""

    def __init__(self, code: HTTPStatus, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class ClientGoneError(Exception):
    """The client went away before its request had come whole: there is nobody to answer."""


def answer(content: Message | dict[str, Any], code: int = 200) -> Response:
    """A message of the protocol, or any JSON."""
    fields = gateway.to_fields(content) if isinstance(content, Message) else content
    return Response(
        json.dumps(fields, separators=(",", ":")), status_code=code, media_type=JSON_TYPE
    )


def paged(fields: dict[str, Any], token: bytes) -> dict[str, Any]:
    """A page, with what leads to the next one, if there is one."""
    return {**fields, "nextPageToken": b64encode(token).decode()} if token else fields


async def answer_list(message: Message, *, token: bytes = b"") -> Response:
    """A message that has nothing but long lists, with a breath for others now and then."""
    fields: dict[str, list[Any]] = {}
    for field, listed in message.ListFields():
        shown = fields.setdefault(field.json_name, [])
        for first in range(0, len(listed), SHOWN_COUNT):
            shown += map(gateway.to_fields, listed[first : first + SHOWN_COUNT])
            await asyncio.sleep(0)
    return answer(paged(fields, token))


def refused(error: SandglassError | Refusal) -> Response:
    """An error as the answer to a request."""
    if isinstance(error, Refusal):
        number = _GRPC_NUMBERS.get(error.code, 3)
        return answer(_error(error.text, number), error.code)
    response = answer(
        _error(status.grpc_text_of(error), status.grpc_number_of(error)),
        status.http_status_of(error),
    )
    response.headers["sandglass-reason"] = error.code
    if error.field:
        response.headers["sandglass-field"] = _plain(error.field)
    if error.is_result_unknown:
        response.headers["sandglass-result"] = status.RESULT_UNKNOWN
    if error.retry_after_ms > 0:
        response.headers["retry-after"] = str(-(-error.retry_after_ms // 1000))
    return response


def stream_error(error: SandglassError) -> dict[str, Any]:
    """An error in the middle of a stream, when the status has been sent already."""
    code = HTTPStatus(status.http_status_of(error))
    return {
        "error": {
            "grpc_code": status.grpc_number_of(error),
            "http_code": code.value,
            "message": status.grpc_text_of(error),
            "http_status": code.phrase,
        }
    }


def _error(text: str, number: int) -> dict[str, Any]:
    return {"error": text, "message": text, "code": number}


def _plain(text: str) -> str:
    """What a header may hold: a field may have a name that a client made up."""
    return "".join(each if " " <= each <= "~" else "?" for each in text[:200])

"""Files that change while a node runs."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sandglass.core import limits
from sandglass.errors import PreconditionError, UnauthenticatedError
from sandglass.security.access import Access
from sandglass.security.tls import TlsFiles
from sandglass.security.tokens import add_token, remove_token
from tests.certificates import Authority


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECURITY_REREAD_MS", 5)


@contextlib.asynccontextmanager
async def watched(access: Access) -> AsyncIterator[None]:
    task = asyncio.create_task(access.watch())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


def is_let_in(access: Access, token: str) -> bool:
    assert access.guard is not None
    try:
        access.guard.admit([f"Bearer {token}"])
    except UnauthenticatedError:
        return False
    return True


async def test_without_files_nobody_is_asked_and_nothing_watched() -> None:
    access = Access()

    assert (access.guard, access.tls, access.https_context()) == (None, None, None)
    await access.watch()


async def test_tokens_added_and_removed_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "tokens"
    add_token(path, "one", "sg_one")
    access = Access(token_file=path)

    async with watched(access):
        add_token(path, "two", "sg_two")
        await until(lambda: is_let_in(access, "sg_two"))
        remove_token(path, "one")
        await until(lambda: not is_let_in(access, "sg_one"))

    assert is_let_in(access, "sg_two")
    assert "tokens changed: added ['two'], revoked []" in caplog.text
    assert "tokens changed: added [], revoked ['one']" in caplog.text
    assert "sg_" not in caplog.text


@pytest.mark.parametrize("harm", ["mode", "gone", "line"])
async def test_a_file_that_is_not_in_order_changes_nothing_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, harm: str
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "tokens"
    add_token(path, "one", "sg_one")
    good = path.read_text()
    access = Access(token_file=path)

    async with watched(access):
        if harm == "mode":
            path.chmod(0o644)
        elif harm == "gone":
            path.rename(tmp_path / "away")
        else:
            path.write_text(good + "two sg_two\n")
        await until(lambda: "stay in use" in caplog.text)
        assert is_let_in(access, "sg_one")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("# nobody\n")
        path.chmod(0o600)
        await until(lambda: not is_let_in(access, "sg_one"))

    assert caplog.text.count("stay in use") <= 2, "said once for each kind of trouble"
    assert "in order again" in caplog.text
    assert "sg_" not in caplog.text


def test_a_start_with_a_wrong_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    add_token(path, "one", "sg_one")
    path.chmod(0o644)

    with pytest.raises(PreconditionError, match="has mode 0644"):
        Access(token_file=path)


async def test_refused_calls_are_told_of_together(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tokens"
    add_token(path, "one", "sg_one")
    access = Access(token_file=path)
    for _ in range(3):
        assert not is_let_in(access, "sg_wrong")

    async with watched(access):
        await until(lambda: "3 calls without a valid token were refused" in caplog.text)

    assert "sg_" not in caplog.text


async def test_a_new_certificate_is_taken_and_a_wrong_one_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue()
    access = Access(tls_files=TlsFiles(pair.certificate, pair.key))
    assert access.https_context() is not None
    first = access.tls

    async with watched(access):
        pair.certificate.write_text("nonsense")
        await until(lambda: "stay in use" in caplog.text)
        assert access.tls is first
        authority.issue()
        await until(lambda: access.tls is not first)

    assert access.tls is not None
    assert access.tls.certificate == pair.certificate.read_bytes()


async def test_a_defect_of_the_watch_doesn_t_end_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens"
    add_token(path, "one", "sg_one")
    access = Access(token_file=path)
    with monkeypatch.context() as patched:
        patched.setattr(access, "_read", lambda: 1 / 0)
        async with watched(access):
            await until(lambda: "were not read again" in caplog.text)
            patched.undo()
            remove_token(path, "one")
            await until(lambda: not is_let_in(access, "sg_one"))

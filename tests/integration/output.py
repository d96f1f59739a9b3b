"""What a program prints."""

import asyncio
from collections.abc import Mapping
from pathlib import Path


async def output_of(
    program: str | Path,
    *arguments: str | Path,
    within_s: float,
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """All that it says, on both streams; fails if it fails, or takes too long."""
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        cwd=folder,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(within_s):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert 0 == process.returncode, said.decode()
    return said.decode()

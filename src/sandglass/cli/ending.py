"""
How both tools end: one line on stderr and a code, never a traceback.

    0 success, or the reader of our output went away
    1 the call or the start failed
    2 wrong usage: a hint follows
    130 Ctrl-C; 143 and 129 when it was asked to end, or its terminal was closed
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sandglass.cli.argv import normalised, options_of
from sandglass.errors import InvalidError, SandglassError

OK = 0
FAILED = 1
WRONG_USAGE = 2
INTERRUPTED = 130


def run(build: Callable[[], Any], tool: str, arguments: Sequence[str]) -> int:
    """
    Runs the command that `build` makes, and returns the code to exit with.

    An `InvalidError` that comes out of it is wrong usage; what a call answers must have been
    turned into an exit before.
    """
    command: Any = None
    open_streams()
    try:
        command = build()
        code = command.main(
            args=normalised(arguments, options_of(command)),
            prog_name=tool,
            standalone_mode=False,
        )
        return _flushed(code if isinstance(code, int) else OK)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        drop_output()
        return OK
    except SystemExit as error:
        # The parser's own end, where nobody reads its help.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        drop_output()
        return OK
    except InvalidError as error:
        return _wrong_usage(tool, error.message, command, arguments)
    except SandglassError as error:
        return failed(tool, error.message)
    except OSError as error:
        return failed_by_system(tool, error)
    except Exception as error:
        said = getattr(error, "format_message", None)
        if type(error).__name__ == "NoArgsIsHelpError" and said is not None:
            print(said())
            return OK
        if said is not None:  # the parser's, whichever version of it this is
            return _wrong_usage(tool, said(), command, arguments)
        if os.environ.get("SANDGLASS_TRACEBACK"):
            raise
        return failed(tool, f"unexpected {type(error).__name__}: {error}")


def open_streams() -> None:
    """
    Standard streams that the caller has closed lead nowhere. Otherwise the next file or socket
    to be opened would get the number of one, and what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def failed(tool: str, message: str) -> int:
    """One line on stderr; the code for a failure."""
    _say(f"{tool}: {message}")
    return FAILED


def failed_by_system(tool: str, error: OSError) -> int:
    """As `failed`, for what the system refused: perhaps to take our output."""
    drop_output()
    place = f"{error.filename}: " if error.filename else ""
    return failed(tool, place + (error.strerror or str(error)))


def drop_output() -> None:
    """
    What is still buffered goes nowhere, quietly: nobody reads it, or nothing takes it. At its
    exit the interpreter would try once more, and tell of it as a traceback.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flushed(code: int) -> int:
    """Here, so that a failure is told as any other."""
    sys.stdout.flush()
    return code


def _wrong_usage(tool: str, message: str, command: Any, arguments: Sequence[str]) -> int:
    words = [tool]
    for word in arguments:
        below = getattr(command, "commands", {})
        if word in below:
            command = below[word]
            words.append(word)
    _say(f"{tool}: {message}")
    _say(f"Try '{' '.join(words)} --help'.")
    return WRONG_USAGE


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        print(" ".join(line.split()), file=sys.stderr)

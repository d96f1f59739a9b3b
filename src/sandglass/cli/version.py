"""What `version` prints."""

import json
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

COMMIT = "none"
DATE = "unknown"
"""A release writes its own here; a build from a checkout knows neither."""


def version_number() -> str:
    """Of the installed package; `dev` where it isn't installed."""
    try:
        return installed_version("sandglass")
    except PackageNotFoundError:
        return "dev"


def version_text(tool: str, *, is_json: bool) -> str:
    """`TOOL VERSION(COMMIT) - DATE`, or the same as JSON."""
    number = version_number()
    if is_json:
        return json.dumps({"tool": tool, "version": number, "commit": COMMIT, "date": DATE})
    return f"{tool} {number}({COMMIT}) - {DATE}"

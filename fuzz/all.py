"""All targets, by name."""

from fuzz import http, protocols, replicated, stored, texts
from fuzz.target import Target

TARGETS: dict[str, Target] = {
    each.name: each
    for each in (
        *stored.TARGETS,
        *replicated.TARGETS,
        *protocols.TARGETS,
        *texts.TARGETS,
        *http.TARGETS,
    )
}

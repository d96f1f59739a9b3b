"""
Every limit is tried at its bound and beyond it, by a test that is named here; or it bounds only
what Sandglass itself does, and stands here with what that is.
"""

import ast
import re
from functools import cache

import pytest

from sandglass.core import limits
from tests.tidy.tree import ROOT, name_of, text_of, tracked

MESSAGES = "integration/limits/test_messages.py"
NUMBERS = "integration/limits/test_numbers.py"
OUTCOMES = "integration/limits/test_outcomes.py"
REQUESTS = "integration/limits/test_requests.py"
MESSAGE = f"{MESSAGES}::test_a_message_at_a_limit_comes_back_whole_and_a_larger_one_is_refused"
ATOM = f"{MESSAGES}::test_an_atom_at_its_limits_is_whole_and_a_larger_one_leaves_nothing"
NAME = f"{NUMBERS}::test_a_name_of_the_largest_length_is_taken_and_a_longer_one_is_refused"
NUMBER = f"{NUMBERS}::test_a_number_at_a_limit_is_taken_and_one_beyond_it_is_refused"
OUTCOME = f"{OUTCOMES}::test_an_outcome_at_a_limit_is_taken_and_one_beyond_it_changes_nothing"
PULL = "integration/test_unary.py::test_numbers_at_their_limits_are_taken"
CONSUME = "integration/test_unary.py::test_a_consume_beyond_a_limit_names_the_field"

TRIED: dict[str, tuple[str, ...]] = {
    "NAME_LENGTH_MAX": (
        NAME,
        "unit/core/test_limits.py::test_name_outside_the_rules_is_refused",
    ),
    "NAME_PATTERN": (
        "unit/core/test_limits.py::test_name_within_the_rules_is_taken",
        "unit/core/test_limits.py::test_name_outside_the_rules_is_refused",
    ),
    "KEY_BYTES_MAX": (MESSAGE, "integration/test_keyvalue.py::test_keys_have_limits"),
    "VALUE_BYTES_MAX": (
        MESSAGE,
        "integration/test_keyvalue.py::test_puts_have_the_limits_of_produces",
    ),
    "HEADER_COUNT_MAX": (MESSAGE,),
    "HEADER_BYTES_MAX": (MESSAGE,),
    "ATOM_BYTES_MAX": (ATOM,),
    "ATOM_MESSAGE_COUNT_MAX": (
        ATOM,
        "unit/rpc/test_compat.py::test_a_call_takes_as_many_offsets_as_an_atom_has_messages",
    ),
    "REQUEST_BYTES_MAX": (
        "unit/rpc/test_server.py::test_a_request_is_read_up_to_5_mib",
        "integration/web/test_hostile.py::test_a_body_is_as_large_as_the_limit_and_no_larger",
    ),
    "FRAME_BYTES_MAX": (
        f"{REQUESTS}::test_a_frame_is_as_large_as_the_limit_and_a_larger_one_ends_its_session_alone",
        "unit/wire/test_frame.py::test_a_frame_is_as_large_as_the_limit_and_no_larger",
    ),
    "CALL_BYTES_MAX": (
        f"{REQUESTS}::test_a_call_without_messages_is_as_large_as_the_limit_and_no_larger",
    ),
    "ROW_MESSAGE_COUNT_MAX": (
        "unit/wire/test_convert.py::test_a_row_holds_1000_messages_and_not_1001",
    ),
    "ROW_BYTES_MAX": (
        "unit/wire/test_convert.py::test_a_row_holds_256_kib_and_not_a_byte_more",
    ),
    "DUE_MS_MAX": (
        NUMBER,
        "unit/wire/test_convert.py::test_a_time_is_0_to_the_end_of_9999",
        "integration/test_keyvalue.py::test_a_time_is_refused",
    ),
    "PARTITION_COUNT_MAX": (NUMBER,),
    "REPLICATION_FACTOR_DEFAULT_MAX": (
        "unit/broker/test_foreign_topics.py::test_a_topic_has_as_many_replicas_as_there_are_members",
    ),
    "REPLICATION_FACTOR_MAX": (
        f"{NUMBERS}::test_more_replicas_than_a_topic_may_have_are_refused_whoever_is_there",
    ),
    "TOPIC_COUNT_MAX": (f"{NUMBERS}::test_as_many_topics_as_the_limit_and_no_more",),
    "CHANNEL_COUNT_MAX": (
        "unit/core/test_partition.py::test_last_channel_is_taken_and_one_more_refused",
    ),
    "GROUP_COUNT_MAX": (
        "unit/core/test_partition.py::test_last_group_is_made_and_one_more_refused",
        "unit/broker/test_groups.py::test_a_topic_has_so_many_groups_and_no_more",
    ),
    "RETENTION_MS_MIN": (NUMBER,),
    "RETENTION_MS_MAX": (NUMBER,),
    "READ_KEY_COUNT_MAX": ("integration/test_keyvalue.py::test_counts_of_keys_have_limits",),
    "DELETE_KEY_COUNT_MAX": ("integration/test_keyvalue.py::test_counts_of_keys_have_limits",),
    "SCAN_ENTRY_COUNT_MAX": ("integration/test_keyvalue.py::test_a_scan_has_limits",),
    "ACK_TIMEOUT_MS_MIN": (NUMBER, CONSUME),
    "LEASE_MS_MAX": (
        NUMBER,
        CONSUME,
        f"{OUTCOMES}::test_a_lease_is_extended_up_to_the_limit",
    ),
    "MAX_DELIVERIES_MAX": (NUMBER,),
    "RELEASE_FACTOR": (
        (
            "unit/core/test_group.py"
            "::test_message_that_nobody_begins_on_becomes_a_dead_letter_in_the_end"
        ),
    ),
    "NACK_DELAY_MS_MAX": (OUTCOME, NUMBER),
    "BACKOFF_DELAY_COUNT_MAX": (NUMBER,),
    "BACKOFF_FACTOR_MAX": (NUMBER,),
    "REASON_BYTES_MAX": (
        OUTCOME,
        "unit/client/test_settling.py::test_reason_is_taken_up_to_its_limit",
    ),
    "SESSION_GRACE_MS_MAX": (
        "unit/test_settings.py::test_a_value_within_its_range_is_taken",
        "unit/test_settings.py::test_a_wrong_value_is_refused_by_name_source_value_and_rule",
    ),
    "OPEN_LEASE_COUNT_MAX": (
        "integration/test_session.py::test_leases_that_one_frame_cannot_list_follow_in_others",
        "unit/rpc/test_outcomes.py::test_a_frame_of_as_many_open_leases_as_may_be_is_small_enough",
    ),
    "CREDIT_COUNT_MAX": (
        NUMBER,
        f"{REQUESTS}::test_credit_adds_up_to_its_limit_and_one_more_ends_the_subscription",
    ),
    "CREDIT_BYTES_MAX": (
        NUMBER,
        f"{REQUESTS}::test_credit_adds_up_to_its_limit_and_one_more_ends_the_subscription",
    ),
    "OUTBOX_BYTES_MAX": (
        (
            "integration/test_hostile.py"
            "::test_a_client_that_does_not_read_its_messages_is_handed_out_no_more"
        ),
    ),
    "OUTGOING_BYTES_MAX": (
        "unit/broker/test_outgoing.py::test_a_connection_has_its_share_and_no_more",
        "unit/broker/test_outgoing.py::test_beyond_the_hard_limit_nobody_is_given_any",
    ),
    "OUTGOING_WAIT_MS": (
        "unit/broker/test_outgoing.py::test_who_waits_for_too_long_is_refused",
    ),
    "CLAIM_COUNT_MAX": (
        "integration/test_claims.py::test_as_many_claims_as_the_limit_are_taken_and_no_more",
    ),
    "SUBSCRIPTION_COUNT_MAX": (
        f"{REQUESTS}::test_a_session_has_as_many_subscriptions_as_the_limit_and_no_more",
    ),
    "PULL_COUNT_MAX": (NUMBER, PULL, CONSUME),
    "PULL_BYTES_MAX": (NUMBER, PULL, CONSUME),
    "PULL_WAIT_MS_MAX": (NUMBER, CONSUME),
    "PULL_ITEM_COUNT_MAX": (PULL,),
    "IN_FLIGHT_BYTES_MAX": (
        (
            "unit/broker/test_node_loop.py"
            "::test_more_in_flight_than_the_limit_is_busy_until_some_is_durable"
        ),
    ),
    "DELIVERY_BYTES_MAX": (
        "integration/test_hostile.py::test_deliveries_of_many_rows_fit_into_their_frames",
    ),
    "DELIVERY_MESSAGE_COUNT_MAX": (
        f"{OUTCOMES}::test_an_outcome_names_as_many_stretches_as_a_lease_has_messages",
        f"{OUTCOMES}::test_an_outcome_on_a_session_names_as_many_stretches_and_no_more",
        (
            "unit/core/test_dispatch.py"
            "::test_a_lease_has_as_many_messages_as_the_limit_and_no_more"
        ),
    ),
    "PAGE_COUNT_MAX": (
        NUMBER,
        f"{OUTCOMES}::test_as_many_dead_letters_are_named_as_a_page_has_and_no_more",
    ),
    "PAGE_BYTES_MAX": (
        "unit/rpc/test_admin.py::test_a_page_of_topics_is_bounded_in_bytes",
        (
            "integration/test_pages_of_topics.py"
            "::test_channels_that_do_not_fit_go_on_with_the_next_page"
        ),
    ),
    "COUNT_ROW_COUNT_MAX": (
        "unit/broker/test_schedule.py::test_a_count_of_too_many_rows_is_a_lower_bound",
    ),
    "TOKEN_COUNT_MAX": (
        (
            "unit/security/test_tokens.py"
            "::test_as_many_tokens_as_may_be_are_read_and_one_more_is_not"
        ),
    ),
    "TOKEN_PER_NAME_COUNT_MAX": (
        "unit/security/test_tokens.py::test_a_renewed_name_has_two_tokens_and_the_older_one_goes",
    ),
    "TOKEN_FILE_BYTES_MAX": (
        (
            "unit/security/test_tokens.py"
            "::test_a_file_of_the_largest_size_is_read_and_a_byte_more_is_not"
        ),
    ),
    "TOKEN_LENGTH_MAX": (
        "unit/security/test_guard.py::test_what_is_not_one_token_is_refused_as_missing",
        "unit/client/test_entry.py::test_what_is_no_token_is_refused_and_not_shown",
    ),
    "REVOKED_WITHIN_MS": (
        (
            "integration/test_security.py"
            "::test_a_revoked_token_ends_its_sessions_in_time_and_no_others"
        ),
    ),
    "TLS_FILE_BYTES_MAX": (
        (
            "unit/security/test_tls.py"
            "::test_a_file_of_the_largest_size_is_read_and_a_byte_more_is_not"
        ),
    ),
    "GRPC_CONNECTION_COUNT_MAX": (
        "unit/rpc/test_bounds.py::test_as_many_connections_as_the_limit_and_no_more",
    ),
    "GRPC_CALL_COUNT_MAX": (
        "unit/rpc/test_bounds.py::test_as_many_calls_as_the_limit_and_no_more",
    ),
    "GRPC_STREAM_COUNT_MAX": (
        (
            "unit/rpc/test_server.py"
            "::test_more_calls_at_once_than_a_connection_takes_wait_and_are_answered"
        ),
    ),
    "GRPC_HANDSHAKE_MS_MAX": (
        "unit/rpc/test_bounds.py::test_a_connection_that_says_nothing_is_let_go",
    ),
    "GRPC_IDLE_MS_MAX": (
        "unit/rpc/test_bounds.py::test_a_connection_that_has_no_call_is_let_go",
    ),
    "HTTP_CONNECTION_COUNT_MAX": (
        "integration/web/test_hostile.py::test_as_many_connections_as_the_limit_and_no_more",
    ),
    "HTTP_HEAD_BYTES_MAX": (
        "integration/web/test_hostile.py::test_a_head_is_as_large_as_the_limit_and_no_larger",
    ),
    "HTTP_HEADER_COUNT_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_head_has_as_many_lines_as_the_limit_and_no_more"
        ),
    ),
    "HTTP_HEAD_MS_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_head_that_does_not_come_whole_in_time_ends_the_connection"
        ),
    ),
    "HTTP_BODY_MS_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_body_that_does_not_come_whole_in_time_is_refused"
        ),
    ),
    "HTTP_CHUNK_COUNT_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_body_may_come_in_as_many_chunks_as_the_limit_and_no_more"
        ),
    ),
    "HTTP_IDLE_MS_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_connection_that_is_idle_after_an_answer_is_closed"
        ),
    ),
    "HTTP_STALL_MS_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_client_that_takes_nothing_is_cut_off_and_gives_back_what_it_did_not_get"
        ),
    ),
    "HTTP_REQUEST_MS_MAX": (
        (
            "integration/web/test_hostile.py"
            "::test_a_request_that_takes_too_long_is_answered_with_an_unknown_result"
        ),
    ),
    "HTTP_WAIT_MS_MAX": (
        "unit/web/test_stream.py::test_a_wait_is_a_length_of_time_up_to_its_limit",
        "unit/web/test_stream.py::test_a_wait_of_another_form_or_beyond_its_limit_is_refused",
    ),
    "HTTP_JSON_ITEM_COUNT_MAX": (
        "unit/wire/test_gateway.py::test_a_body_has_as_many_items_as_the_limit_and_no_more",
    ),
    "METRICS_TOPIC_COUNT_MAX": (
        "unit/broker/test_figures.py::test_topics_beyond_the_limit_stand_together",
    ),
    "METRICS_PARTITION_COUNT_MAX": (
        "unit/broker/test_figures.py::test_partitions_beyond_the_limit_are_left_out",
    ),
    "METRICS_GROUP_COUNT_MAX": (
        "unit/broker/test_figures.py::test_groups_and_rows_beyond_the_limit_are_left_out",
    ),
    "METRICS_ROW_COUNT_MAX": (
        "unit/broker/test_figures.py::test_groups_and_rows_beyond_the_limit_are_left_out",
    ),
    "SNAPSHOT_BYTES_MIN": ("unit/test_settings.py::test_snapshot_bytes_have_bounds",),
    "SNAPSHOT_BYTES_MAX": ("unit/test_settings.py::test_snapshot_bytes_have_bounds",),
    "MOVED_KEY_COUNT_MAX": (
        "unit/broker/test_moving.py::test_where_too_much_was_written_all_is_compared",
    ),
    "SNAPSHOT_MANIFEST_BYTES_MAX": (
        "unit/replication/test_snapshot.py::test_a_manifest_has_a_largest_size",
    ),
}
"""Limit -> the tests, below `tests/`, that try it at its bound and beyond."""

WITHIN: dict[str, str] = {
    "REPLICATED_NUMBER_MIN": "parts the numbers that nodes give out",
    "FOREIGN_NUMBER_MIN": "parts the numbers that nodes give out",
    "BUSY_RETRY_MS": "advice in an answer",
    "LOOK_(ROW_COUNT|BYTES)_MAX": "how long one look has the loop; the next goes on",
    "TURN_[A-Z_]+|GROUP_ENDING_COUNT_MAX": "what one turn does; the next goes on",
    "REPLAY_ROW_COUNT": "how much of a recovery is held at a time",
    "PROMISE_MS|PAUSE_MS|CUT_INTERVAL_MS|CLOCK_[A-Z]+_MS": "rules of time, simulated",
    "ENTRY_[A-Z_]+|DUPLICATE_WINDOW_MS|LEADER_[A-Z_]+": "between members of a cluster",
    "SNAPSHOT_(ENTRY|PART|SLICE|AHEAD)_[A-Z_]+": "between members of a cluster",
    "SECURITY_REREAD_MS": "how often we look",
    "[A-Z_]+_DEFAULT": "what is taken where nothing is said",
}
"""Names that bound nothing that comes from outside, and what they are instead."""


def names() -> list[str]:
    return [name for name in vars(limits) if name.isupper()]


def is_within(name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in WITHIN)


@cache
def functions_of(path: str) -> frozenset[str]:
    """Names of the test functions of a file."""
    tree = ast.parse((ROOT / "tests" / path).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(each.name for each in tree.body if isinstance(each, kinds))


@pytest.mark.parametrize("name", names())
def test_a_limit_has_a_test_at_its_bound_or_a_reason_to_have_none(name: str) -> None:
    assert is_within(name) != (name in TRIED)


@pytest.mark.parametrize("name", TRIED)
def test_the_tests_that_try_a_limit_are_there(name: str) -> None:
    assert hasattr(limits, name)

    places = [each.partition("::") for each in TRIED[name]]

    assert [] == [test for path, _, test in places if test not in functions_of(path)]


def test_every_reason_is_for_a_limit_that_there_is() -> None:
    assert [] == [
        pattern
        for pattern in WITHIN
        if not any(re.fullmatch(pattern, name) for name in names())
    ]


def test_no_bound_of_a_request_is_a_bare_number() -> None:
    """It would be missing in the reference, and here."""
    bare = re.compile(r"check_range\([^()]*(?:\([^()]*\)[^()]*)*\bhigh=\d\d")
    inside = [
        path
        for path in tracked()
        if name_of(path).startswith(
            tuple(
                f"src/sandglass/{each}/"
                for each in ("broker", "core", "rpc", "surface", "web", "wire")
            )
        )
    ]

    assert len(inside) > 50
    assert [] == [name_of(path) for path in inside if bare.search(text_of(path) or "")]

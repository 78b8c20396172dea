"""What makes another list: the token, the permissions, the filters, deletes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tap_homele import config, state
from tests.sandbox.server import Token
from tests.singer import saved
from tests.world import DAY, Company, full_table_of, warnings

if TYPE_CHECKING:
    from tests.singer import Output

HOUR = timedelta(hours=1)
ANOTHER = (
    "The token, the filters, the address or the streams are not those of the last run: "
    "reading all customers that match."
)
OTHER_TOKEN = "2|another"  # noqa: S105


@pytest.fixture
def honest(company: Company) -> Company:
    company.sandbox.drops_nulls = False
    company.grow(1000, days=200)
    return company


def next_run(company: Company, **options: Any) -> Output:
    company.now += HOUR
    return company.run(**options)


def hide(company: Company, hidden: set[int]) -> dict[int, Any]:
    """Take customers out of what the token sees; give their rows."""
    rows = {id_: company.sandbox.customers[id_] for id_ in sorted(hidden)}
    for id_ in rows:
        company.sandbox.delete(id_)
    return rows


def show(company: Company, rows: dict[int, Any]) -> None:
    for row in rows.values():
        company.sandbox.add(row)


HALF = set(range(1, 1001, 2))


# The token.


@pytest.mark.parametrize("other", ["smaller", "as large", "larger"])
def test_a_token_of_another_company_sends_all(
    honest: Company, caplog: pytest.LogCaptureFixture, other: str
) -> None:
    """With the same state, and low ids and old dates."""
    hidden = {"smaller": set(), "as large": HALF, "larger": set(range(301, 1001))}
    there = hide(honest, hidden[other])
    honest.run()
    theirs = hide(honest, set(honest.sandbox.customers))
    if other == "smaller":
        there = {id_: row for id_, row in theirs.items() if id_ <= 300}
    show(honest, there)
    honest.sandbox.tokens[OTHER_TOKEN] = Token(user="other")

    output = next_run(honest, auth_token=OTHER_TOKEN)

    assert sorted(output.ids) == sorted(there)
    assert ANOTHER in warnings(caplog)
    assert next_run(honest, auth_token=OTHER_TOKEN).ids == []


def test_a_new_token_of_the_same_company_sends_all_once(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    honest.run()
    honest.sandbox.tokens[OTHER_TOKEN] = Token()

    assert len(next_run(honest, auth_token=OTHER_TOKEN).ids) == 1000
    assert warnings(caplog) == [ANOTHER]
    assert next_run(honest, auth_token=OTHER_TOKEN).ids == []


def test_a_token_without_its_number_is_the_same(honest: Company) -> None:
    """Sanctum takes both."""
    honest.run()
    honest.sandbox.tokens["sandbox"] = Token()

    assert next_run(honest, auth_token="sandbox").ids == []  # noqa: S106


def test_the_token_does_not_stand_in_the_state(honest: Company) -> None:
    assert "sandbox" not in str(honest.run().states)


def test_a_state_of_an_older_version_counts_as_this_list(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    digest = state.list_id(honest.sandbox.api_url, config.filters_of({}), {})
    old = {
        "replication_key": "updated_at",
        "replication_key_value": "2026-02-28T00:00:00+00:00",
        "fingerprint": digest,
        "highest_id": 990,
        "scan_by": None,
        "full_scan": "2026-02-28T12:00:00+00:00",
        "cross_check": {"began": "2026-02-28T12:00:00+00:00", "done": True},
        "scan": [],
    }

    output = honest.run(state={"bookmarks": {"customers": old}})

    # And one day more of activities, which may have been days.
    assert set(range(986, 1001)) <= set(output.ids)
    assert len(output.ids) < 30
    assert warnings(caplog) == []
    assert set(output.state["bookmarks"]["customers"]) == {
        *("replication_key", "replication_key_value", "saved")
    }
    assert next_run(honest).ids == []


@pytest.mark.parametrize("mode", ["created_date", None])
def test_the_mode_of_an_older_version_is_kept(
    honest: Company, mode: str | None
) -> None:
    digest = state.list_id(honest.sandbox.api_url, config.filters_of({}), {})
    old = {
        "replication_key_value": "2026-02-28T00:00:00+00:00",
        "fingerprint": digest,
        "scan_by": mode,
        "scan": [{"fingerprint": digest, "bookmark": ""}],
    }

    output = honest.run(state={"bookmarks": {"customers": old}})

    # What was owed is sent.
    assert sorted(output.ids) == [*range(1, 1001)]
    by_cursor = any("cursor=" in url for url in honest.sandbox.urls)
    assert by_cursor is (mode is None)


# Customers that become visible.


def test_wider_permissions_send_all_with_the_next_run_but_one(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    rows = hide(honest, HALF)
    honest.run()
    show(honest, rows)

    second = next_run(honest)

    assert second.ids == []
    (warning,) = warnings(caplog)
    assert warning == (
        "500 customers can be seen that could not be when the last full scan ran, "
        "although they are not new: the token may see more now, or the list was short "
        "then. The next run sends all customers."
    )
    assert len(next_run(honest).ids) == 1000
    assert next_run(honest).ids == []
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("count", [20, 21])
def test_up_to_twenty_that_become_visible_are_not_noticed(
    honest: Company, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    """A limit that is documented."""
    rows = hide(honest, set(range(1, 1 + count)))
    honest.run()
    show(honest, rows)

    next_run(honest)

    assert bool(warnings(caplog)) is (count == 21)
    assert len(next_run(honest).ids) == 1000 * (count == 21)


def test_a_list_that_is_short_for_three_runs_and_whole_again(honest: Company) -> None:
    honest.run()
    rows = hide(honest, HALF)
    for _ in range(3):
        next_run(honest)
    # Edited while they could not be seen.
    for id_ in (1, 3, 5):
        rows[id_]["name"] = "Edited"
    show(honest, rows)

    next_run(honest)

    assert sorted(next_run(honest).ids) == [*range(1, 1001)]


def test_customers_that_enter_and_leave_a_filter_are_no_warning(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """By edits, in each run; each is sent once."""
    sandbox = honest.sandbox
    inside, outside = {"id": 1, "name": "New"}, {"id": 2, "name": "Won"}
    for id_ in sandbox.customers:
        sandbox.change(id_, lead_status=inside if id_ <= 500 else outside)
    options = {"filter_lead_status_ids": [1]}
    assert len(honest.run(**options).ids) == 500
    for turn in range(3):
        honest.now += HOUR
        entering = range(501 + 100 * turn, 601 + 100 * turn)
        for id_ in entering:
            sandbox.edit(id_, lead_status=inside)
        for id_ in range(1 + 100 * turn, 101 + 100 * turn):
            sandbox.edit(id_, lead_status=outside)
        assert sorted(next_run(honest, **options).ids) == [*entering]
    assert warnings(caplog) == []


def test_customers_that_move_down_while_the_list_is_read_are_counted_once(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    honest.run()
    honest.now += DAY

    def move_down() -> None:
        if len(honest.sandbox.requests) == 4:
            for id_ in range(900, 1000):
                honest.sandbox.change(id_, last_activity_at="2025-06-01T00:00:00+00:00")

    honest.sandbox.meanwhile = move_down
    honest.run()
    honest.sandbox.meanwhile = None

    assert warnings(caplog) == []
    assert next_run(honest).ids == []


# Deletes.


@pytest.mark.parametrize("count", [499, 600])
def test_deletes_of_more_than_half_wait_for_the_second_full_scan(
    honest: Company, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    full_table_of(honest)
    hide(honest, set(range(1, 1 + count)))
    honest.now += HOUR

    first = full_table_of(honest)
    honest.now += HOUR
    second = full_table_of(honest)

    assert len(first.of("ACTIVATE_VERSION")) == (count == 499)
    assert len(second.of("ACTIVATE_VERSION")) == 1
    assert bool(warnings(caplog)) is (count == 600)


@pytest.mark.parametrize("version", ["new token", "0.1.0"])
def test_customers_without_a_created_date_are_not_forgotten(
    honest: Company, version: str
) -> None:
    """No window holds them, so by created date they would be taken for deleted."""
    honest.sandbox.change(5, created_at=None)
    options: dict[str, Any] = {"scan_by": "created_date"}
    if version == "0.1.0":
        options["state"] = {"bookmarks": {"customers": {"undated": True}}}
    else:
        full_table_of(honest, scan_by="cursor")
        honest.sandbox.tokens[OTHER_TOKEN] = Token()
        options["auth_token"] = OTHER_TOKEN

    output = full_table_of(honest, **options)

    assert 5 not in output.ids
    assert output.of("ACTIVATE_VERSION") == []


def test_quick_runs_between_change_nothing(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    quick = {"full_scan_every_hours": 24}
    rows = hide(honest, HALF)
    honest.run(**quick)
    for _ in range(3):
        assert next_run(honest, **quick).ids == []
    show(honest, rows)
    assert next_run(honest, **quick).ids == []
    honest.now += DAY

    assert next_run(honest, **quick).ids == []  # a full scan, which notices
    assert len(warnings(caplog)) == 1
    assert len(next_run(honest, **quick).ids) == 1000
    assert saved(honest.outputs[-1])["total"]["customers"] == 1000
    assert next_run(honest, **quick).ids == []
    assert len(honest.sandbox.urls) <= 4

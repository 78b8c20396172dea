"""Does the cursor skip customers? The list by created date tells."""

from __future__ import annotations

import logging
import math
import re
import zlib
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import FatalAPIError

from tests.sandbox import faults
from tests.sandbox.customers import Customer, spell
from tests.singer import (
    failed_scans,
    is_open,
    merge,
    open_scan,
    saved,
    sync,
)
from tests.world import (
    DAY,
    FAULTS,
    NULLS,
    Company,
    days_of,
    full_table,
    full_table_of,
    holds_days,
    is_complete,
    is_window,
    sorts_nulls,
    summary,
    warnings,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from tests.conftest import Serve

# Whether the filters include their own day at the start, and at the end.
INCLUDES = [(True, True), (True, False), (False, False)]


def test_a_last_page_of_which_all_customers_are_skipped(serve: Serve) -> None:
    """The last page lacks those without an activity, and has nobody else."""
    sandbox = serve(400)
    rows = sorted(
        sandbox.customers.values(),
        key=lambda row: (row["last_activity_at"] or "", row["id"]),
    )
    nulls = [row for row in rows if not row["last_activity_at"]]
    assert len(nulls) < 100
    for row in rows[len(nulls) : 100]:
        row["last_activity_at"] = None
    sandbox.drops_nulls = True

    output = sync(sandbox, scan_by="auto")

    assert is_complete(sandbox, output)
    assert failed_scans(output) == 1


# Complete after the run.


def test_nothing_skipped_and_some_created_today(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """60 of 1,560: no warning, complete, and deletes are announced."""
    company.grow(1500, days=100)
    company.add(60, company.now - timedelta(hours=3))

    output = full_table_of(company)

    assert company.is_complete
    assert warnings(caplog) == []
    assert len(output.of("ACTIVATE_VERSION")) == 1
    assert "Cross-check" not in summary(caplog)


def test_a_first_run_of_which_a_part_has_no_activity(company: Company) -> None:
    company.grow(2850, days=400)
    for at in range(150):
        day = company.now - timedelta(days=2 + 2.6 * at)
        company.add(1, day, active=False)

    company.run()

    assert company.is_complete
    assert failed_scans(company.outputs[-1]) == 1


def test_a_weekly_run_and_an_import_of_some_days_ago(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    company.grow(2000, days=100)
    company.run()
    company.now += 7 * DAY
    company.grow(140, days=7)
    company.add(80, company.now - 5 * DAY, active=False)

    company.run()

    assert company.is_complete
    (warning,) = warnings(caplog)
    assert re.fullmatch(
        r"Homele's cursor skips customers: \d+ of those created on .*\. "
        r"Reading by created date in this run\. The next full scan begins by the "
        r"cursor again\.",
        warning,
    )


@pytest.mark.parametrize("includes", INCLUDES, ids=str)
def test_a_daily_run_and_leads_of_today(
    company: Company, includes: tuple[bool, bool]
) -> None:
    """60 a day, and 30 without an activity: a day fits on a page, two do not."""
    company.sandbox.includes_from, company.sandbox.includes_to = includes
    company.grow(3000, days=50)
    company.run()
    company.now += DAY
    company.add(60, company.now - timedelta(hours=8))
    company.add(30, company.now - timedelta(hours=4), active=False)

    company.run()

    assert company.is_complete


# Complete, or said.


def said(caplog: pytest.LogCaptureFixture, day: datetime) -> list[int]:
    """Return the numbers that warnings name for a day."""
    found = [
        re.findall(rf"{day.date()} .* returned (\d+)", w) for w in warnings(caplog)
    ]
    return [int(number) for numbers in found for number in numbers]


def test_a_day_that_does_not_fit_on_a_page(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """400 imported today, 110 of them called since."""
    company.grow(1500, days=100)
    company.run()
    company.now += DAY
    company.add(290, company.now - timedelta(hours=3), active=False)
    company.add(110, company.now - timedelta(hours=2))

    company.run()

    assert not company.is_complete
    assert said(caplog, company.now) == [110]


def test_a_day_of_long_ago_that_does_not_fit_on_a_page(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """150 of 3,000 on one day, 49 of them without an activity."""
    company.grow(2850, days=300)
    day = company.now - 100 * DAY + timedelta(hours=5)
    company.add(101, day)
    company.add(49, day, active=False)

    for _ in range(4):
        company.run()

    assert company.is_complete or said(caplog, day)


def test_nobody_is_deleted_where_a_day_does_not_fit_on_a_page(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    company.grow(1500, days=100)
    company.add(110, company.now - timedelta(hours=2))
    company.add(40, company.now - timedelta(hours=3), active=False)

    output = full_table_of(company)

    assert set(said(caplog, company.now)) == {110}
    assert output.of("ACTIVATE_VERSION") == []


# Complete at the end of the round.


NUMBERS: dict[str, Callable[[int], int | None]] = {
    "null": lambda _: None,
    "random": lambda id_: zlib.crc32(str(id_).encode()) % 10**6,
    "in steps of ten": lambda id_: 10 * id_,
}


@pytest.mark.parametrize("number", NUMBERS)
def test_an_import_of_long_ago_is_found_by_the_round(
    company: Company, caplog: pytest.LogCaptureFixture, number: str
) -> None:
    """300 of 3,000, created a year ago in a few days, and never called."""
    company.sandbox.rate_limit = 60
    company.grow(2700, days=500)
    for at in range(10):
        company.add(30, company.now - (365 + at) * DAY, active=False)
    for id_, row in company.sandbox.customers.items():
        row["sequential_number"] = NUMBERS[number](id_)

    runs = 0
    while not company.is_complete:
        assert runs < 4
        company.run()
        company.now += timedelta(hours=1)
        runs += 1
        if not company.is_complete:
            # Until then the log says how far it is, and nobody waits.
            pattern = (
                r"Cross-check: created dates down to [\d-]+ compared, none skipped"
            )
            assert re.search(pattern, caplog.text)
            assert company.waited == []
    assert failed_scans(company.outputs[-1]) == 1


def test_300_created_on_one_day_of_long_ago_are_named(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """No query divides a day: what the cursor skips there cannot be had."""
    company.grow(2700, days=500)
    day = company.now - 365 * DAY + timedelta(hours=4)
    company.add(300, day, active=False)

    for _ in range(4):
        company.run()

    assert not company.is_complete
    pattern = rf"created on {day.date()} than fit on a page: 10\d were read"
    assert any(re.search(pattern, warning) for warning in warnings(caplog))


def test_customers_that_lost_their_activity_are_found_by_the_round(
    company: Company,
) -> None:
    company.grow(3000, days=400)
    company.run()
    company.now += DAY
    for id_ in range(1000, 1020):
        company.sandbox.edit(id_, last_activity_at=None, address="Gulan Street 7")

    for _ in range(4):
        company.run()

    stored = {r["id"]: r for output in company.outputs for r in output.records}
    assert {stored[id_]["address"] for id_ in range(1000, 1020)} == {"Gulan Street 7"}


@pytest.mark.parametrize(
    "customers",
    [3000, *(pytest.param(n, marks=pytest.mark.slow) for n in (5800, 6000, 8000))],
)
def test_the_round_does_not_wait(company: Company, customers: int) -> None:
    company.sandbox.rate_limit = 60
    company.grow(customers, days=customers // 10)
    sync(company.sandbox, scan_by="cursor")
    by_cursor = [*company.waited]
    company.now += timedelta(minutes=10)

    company.run()

    # Where fewer than ten requests are left, it waits once.
    left = -(customers // 100 + 2) % 60
    assert company.waited == by_cursor * 2 + [61] * (left < 10)


def test_a_full_table_with_deletes_waits_for_the_end_of_the_round(
    company: Company,
) -> None:
    company.sandbox.rate_limit = 60
    company.grow(4000, days=400)

    output = full_table_of(company)

    assert company.waited
    assert len(output.of("ACTIVATE_VERSION")) == 1


@pytest.mark.slow
def test_without_the_header_a_run_spends_thirty_requests(company: Company) -> None:
    company.grow(5000, days=500)

    company.run()
    first = saved(company.outputs[-1])["comparison"]
    assert company.windows == 30
    assert first["is_complete"] is False
    company.run()
    second = saved(company.outputs[-1])["comparison"]
    assert second["compared_down_to"] < first["compared_down_to"]
    # What was created since the first run is compared in addition.
    assert company.windows <= 30 + 2
    company.run()

    assert saved(company.outputs[-1])["comparison"]["is_complete"] is True


def test_a_small_account_is_compared_completely_in_each_run(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    company.sandbox.rate_limit = 60
    company.grow(1500, days=200)
    company.run()
    for days in (1, 2):
        company.now += days * DAY
        company.run()
        assert company.windows <= 1.3 * 15 + 6
        assert saved(company.outputs[-1])["comparison"] == {
            "since": spell(company.now),
            "compared_down_to": None,
            "is_complete": True,
        }
    assert company.waited == []
    assert warnings(caplog) == []
    assert "Cross-check" not in caplog.text
    company.now += DAY
    company.add(80, company.now - 5 * DAY, active=False)

    company.run()

    assert company.is_complete


@pytest.mark.parametrize(("limit", "is_complete"), [("20", True), ("30", False)])
def test_a_limit_that_is_none_of_a_minute_says_nothing(
    company: Company, limit: str, *, is_complete: bool
) -> None:
    """With two limits, the headers describe the last one: that of a second, say."""
    company.grow(1500, days=200)

    @company.sandbox.app.after_request
    def tell(response: Response) -> Response:
        told = {"X-RateLimit-Limit": limit, "X-RateLimit-Remaining": "12"}
        response.headers.update(told)
        return response

    company.run()

    assert company.windows == (24 if is_complete else 12)
    assert saved(company.outputs[-1])["comparison"]["is_complete"] is is_complete


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_large_account_is_compared_in_45_runs(company: Company) -> None:
    """By a server that does not say what is left; 100,000 in proportion."""
    company.grow(20_000, days=2000)
    company.run()
    company.add(80, company.now - 1900 * DAY, active=False)

    runs = 0
    while not company.is_complete:
        company.now += timedelta(hours=1)
        company.run()
        runs += 1

    assert runs <= 45 / 5


# Servers that differ.


@pytest.mark.parametrize("most", [25, 50])
def test_a_server_that_gives_fewer_than_it_is_asked_for(
    company: Company, most: int
) -> None:
    company.sandbox.most = most
    company.grow(1000, days=200)
    for at in range(50):
        company.add(1, company.now - timedelta(days=2 + 3.7 * at), active=False)

    company.run()

    assert company.is_complete


def test_small_pages(company: Company) -> None:
    company.grow(450, days=100)
    company.add(20, company.now - 30 * DAY, active=False)

    company.run(page_size=10)

    assert company.is_complete
    assert failed_scans(company.outputs[-1]) == 1


@pytest.mark.parametrize("seconds", [1, 20])
def test_nobody_is_deleted_from_a_list_by_activity_or_else_created_date(
    company: Company, caplog: pytest.LogCaptureFixture, seconds: int
) -> None:
    """250 get an activity while page 8 is read; a new one without comes on top."""
    sandbox = company.sandbox
    sandbox.drops_nulls = False
    sandbox.key = lambda row: (row["last_activity_at"] or row["created_at"], row["id"])
    company.grow(1500, days=300)
    company.add(50, company.now - 100 * DAY, active=False)

    def meanwhile() -> None:
        company.now += timedelta(seconds=seconds)
        if len(sandbox.requests) == 8:
            for id_ in range(1, 251):
                sandbox.change(id_, last_activity_at=sandbox.now())
            company.now += timedelta(seconds=1)
            company.add(1, company.now, active=False)

    sandbox.meanwhile = meanwhile

    output = full_table_of(company)

    assert company.is_complete
    assert len(output.of("ACTIVATE_VERSION")) == 1
    assert warnings(caplog) == []


# What can go wrong.


@pytest.mark.parametrize("status", [500, 503])
def test_a_cross_check_that_fails_is_a_warning_and_the_next_run_goes_on(
    company: Company, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    company.grow(1000, days=100)
    company.add(30, company.now - 50 * DAY, active=False)
    # The list, its end, its top, what tells of the overlap, and a window.
    company.sandbox.fail(faults.refused(status, "Down"), at=10 + 3 + 2, times=8)

    company.run()

    assert len(company.waited) == 7
    assert not company.is_complete
    assert warnings(caplog)[-1].startswith(
        "Whether the cursor skips customers could not be checked: GET /api/v2/crm/"
    )
    assert failed_scans(company.outputs[-1]) == 0
    company.run()
    assert company.is_complete


def test_a_kill_in_the_middle_of_a_comparison(company: Company) -> None:
    company.grow(1500, days=300)
    whole = sync(company.sandbox, scan_by="auto")
    assert saved(whole)["comparison"]["is_complete"] is True
    at = [n for n, message in enumerate(whole.messages) if message["type"] == "STATE"]
    killed = company.run(kill_after=at[-8])
    assert is_open(killed)
    company.add(20, company.now - 250 * DAY, active=False)

    company.run()
    assert company.windows == 0  # it resumed a scan
    company.run()

    assert company.is_complete


# New by id.


def with_old_import(company: Company) -> list[Customer]:
    """Import 100 customers after the first run, with dates of a year ago."""
    company.sandbox.drops_nulls = False
    company.grow(500, days=400)
    company.run()
    company.now += DAY
    return company.add(100, company.now - 365 * DAY)


def test_customers_with_the_dates_of_an_older_system_arrive_once(
    company: Company,
) -> None:
    """100 imported between two runs, with all three times a year old."""
    added = with_old_import(company)
    company.now += DAY

    second, third = company.run(), company.run()

    new = {row["id"] for row in added}
    assert new <= set(second.ids)
    assert len(second.ids) == len(set(second.ids))
    assert not new & set(third.ids)
    assert saved(second)["last_full_scan"]["max_id"] == 600


def test_an_interrupted_scan_keeps_the_ids_of_the_last_complete_one(
    company: Company,
) -> None:
    with_old_import(company)
    company.run(kill_after=90)

    company.run()

    assert company.is_complete
    assert company.run().ids == company.run().ids


# The faults of a cursor, as the sandbox has them.


@pytest.mark.parametrize("nulls", NULLS)
@pytest.mark.parametrize("fault", FAULTS)
def test_customers_that_the_cursor_skips_arrive(
    serve: Serve,
    waited: list[float],
    caplog: pytest.LogCaptureFixture,
    fault: str,
    nulls: str,
) -> None:
    """3,000 customers, of which 5 % have no activity."""
    sandbox = serve(3000, **{fault: True})
    sorts_nulls(sandbox, nulls)
    without = [r for r in sandbox.customers.values() if not r["last_activity_at"]]
    assert 120 <= len(without) <= 180

    outputs = [sync(sandbox, scan_by="auto")]
    while not is_complete(sandbox, *outputs):
        # Few share a second: the round finds them.
        assert fault == "drops_seconds"
        assert len(outputs) < 3
        assert failed_scans(outputs[-1]) == 0
        outputs.append(sync(sandbox, scan_by="auto", state=outputs[-1].state))

    first = outputs[-1]
    assert failed_scans(first) == 1
    assert not is_open(first)
    assert "The next full scan begins by the cursor again." in caplog.text
    # A cursor that fails costs seconds, and nobody comes twice.
    assert waited == ([1, 2, 1, 2] if fault == "fails_on_null" else [])
    if len(outputs) == 1:
        assert len(first.ids) == 3000

    # An edit to one of them arrives with the next run, which leaves the cursor, too.
    caplog.clear()
    sandbox.edit(without[7]["id"], address="Gulan Street 7")
    second = sync(sandbox, scan_by="auto", state=first.state)

    assert without[7]["id"] in second.ids
    assert len(second.ids) < 100
    assert failed_scans(second) == 2
    assert "A full refresh gives the cursor another chance." in caplog.text

    # From then on it is not asked any more.
    sandbox.requests.clear()
    sandbox.edit(without[8]["id"], address="Gulan Street 8")
    third = sync(sandbox, scan_by="auto", state=second.state)

    assert without[8]["id"] in third.ids
    # It takes some windows until the newest, which are some months old.
    assert len(sandbox.urls) <= 2 * 30
    assert not any("cursor=" in url for url in sandbox.urls)
    assert failed_scans(third) == 2


def test_a_fresh_import_is_found_by_the_next_run(serve: Serve) -> None:
    sandbox = serve(450, drops_nulls=True)
    for row in sandbox.customers.values():
        row["last_activity_at"] = row["last_activity_at"] or row["created_at"]
    first = sync(sandbox, scan_by="auto")
    assert failed_scans(first) == 0
    for number in range(5):
        row = dict(next(iter(sandbox.customers.values())))
        now = spell(datetime.now(timezone.utc) - timedelta(hours=1))
        row |= {"id": 10_000 + number, "sequential_number": 2000 + number}
        sandbox.add(
            row | {"created_at": now, "updated_at": now, "last_activity_at": None}
        )

    second = sync(sandbox, scan_by="auto", state=first.state)

    assert {10_000 + number for number in range(5)} <= set(second.ids)
    assert failed_scans(second) == 1


def test_customers_that_were_skipped_before_arrive_whatever_their_dates(
    serve: Serve,
) -> None:
    """The bookmark is later than the last update of those that come to light."""
    sandbox = serve(450, drops_nulls=True)
    by_cursor = sync(sandbox, scan_by="cursor")
    assert not is_complete(sandbox, by_cursor)

    for scan_by in ("auto", "created_date"):
        output = sync(sandbox, scan_by=scan_by, state=by_cursor.state)
        assert is_complete(sandbox, by_cursor, output)


def test_a_full_refresh_uses_the_cursor_again(serve: Serve) -> None:
    sandbox = serve(450, drops_nulls=True)
    first = sync(sandbox, scan_by="auto")
    assert failed_scans(first) == 1
    sandbox.drops_nulls = False

    second = sync(sandbox, scan_by="auto")

    assert failed_scans(second) == 0


def test_other_filters_use_the_cursor_again(serve: Serve) -> None:
    sandbox = serve(450, drops_nulls=True)
    first = sync(sandbox, scan_by="auto")
    sandbox.requests.clear()
    sandbox.drops_nulls = False

    sync(sandbox, scan_by="auto", state=first.state, filter_owner_ids=[1, 2, 3, 4])

    assert "cursor=" in sandbox.urls[1]


def test_a_500_on_the_first_page_is_no_reason_to_leave_the_cursor(
    serve: Serve, waited: list[float]
) -> None:
    sandbox = serve(450)
    sandbox.fail(faults.refused(500, "Server Error"), times=math.inf)

    with pytest.raises(FatalAPIError, match="500"):
        sync(sandbox, scan_by="auto")

    assert len(waited) == 7
    assert not any(is_window(url) for url in sandbox.urls)


def test_a_list_of_one_page_needs_no_cross_check(serve: Serve) -> None:
    sandbox = serve(100)

    sync(sandbox, scan_by="auto")

    assert sandbox.urls == ["/customers?per_page=100"] * 2


def test_new_customers_are_not_taken_for_skipped_ones(serve: Serve) -> None:
    sandbox = serve(450)

    def add() -> None:
        if is_window(sandbox.urls[-1]) and 10_000 not in sandbox.customers:
            now = sandbox.now()
            row = dict(next(iter(sandbox.customers.values()))) | {"id": 10_000}
            sandbox.add(row | {"created_at": now, "updated_at": now})

    sandbox.meanwhile = add

    output = sync(sandbox, scan_by="auto")

    assert 10_000 in sandbox.customers
    assert failed_scans(output) == 0


@pytest.mark.parametrize("answer", [faults.refused(422, "No."), faults.html(404)])
def test_a_cross_check_that_is_refused_is_no_failure(
    serve: Serve, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    sandbox = serve(450)
    # 5 pages, their end, their top.
    sandbox.fail(answer, at=5 + 2 + 1, times=math.inf)

    output = sync(sandbox, scan_by="auto")

    assert is_complete(sandbox, output)
    assert failed_scans(output) == 0
    (warning,) = warnings(caplog)
    assert warning.startswith(
        "Whether the cursor skips customers could not be checked:"
    )


def test_a_created_date_that_is_none_is_no_error(serve: Serve) -> None:
    sandbox = serve(250)
    rows = list(sandbox.customers.values())
    for row in rows[101:104]:
        sandbox.delete(row["id"])
    rows[100]["created_at"] = "0000-00-00"

    output = sync(sandbox, scan_by="auto")

    assert is_complete(sandbox, output)
    assert failed_scans(output) == 0


def hidden_import(rows: list[Customer], created_at: Callable[[int], str]) -> None:
    for at, row in enumerate(rows):
        row |= {"created_at": created_at(at), "last_activity_at": None}


def test_an_import_with_dates_of_long_ago_is_found(serve: Serve) -> None:
    """An import has the highest numbers, but keeps the dates of long ago."""
    sandbox = serve(3000, drops_nulls=True)
    rows = list(sandbox.customers.values())
    for row in rows:
        row["last_activity_at"] = row["last_activity_at"] or row["updated_at"]
    hidden_import(rows[2700:], lambda at: rows[9 * at]["created_at"])

    output = sync(sandbox, scan_by="auto")

    assert is_complete(sandbox, output)
    assert failed_scans(output) == 1


def test_a_run_compares_what_was_created_on_the_day_before(serve: Serve) -> None:
    sandbox = serve(500, drops_nulls=True)
    now = datetime.now(timezone.utc)
    for row in sandbox.customers.values():
        row["last_activity_at"] = row["last_activity_at"] or row["created_at"]

    def add(count: int, start: int, days: int, *, active: bool = True) -> None:
        at = spell(now - timedelta(days=days, hours=1))
        for number in range(start, start + count):
            row = dict(next(iter(sandbox.customers.values()))) | {"id": number}
            row |= {"sequential_number": number, "created_at": at, "updated_at": at}
            sandbox.add(row | {"last_activity_at": at if active else None})

    add(80, 10_000, 5)
    add(10, 20_000, 3)
    first = sync(sandbox, scan_by="auto")
    assert failed_scans(first) == 0
    add(40, 30_000, 2, active=False)

    second = sync(sandbox, scan_by="auto", state=first.state)

    assert is_complete(sandbox, first, second)


def test_nobody_is_deleted_where_the_cursor_could_not_be_checked(serve: Serve) -> None:
    sandbox = serve(450, drops_nulls=True)
    sandbox.fail(faults.refused(422, "No."), at=5 + 2 + 1, times=math.inf)

    output = full_table(sandbox, scan_by="auto")

    assert output.of("ACTIVATE_VERSION") == []


def test_a_filter_that_ends_on_a_crowded_day_is_not_turned_round(serve: Serve) -> None:
    sandbox = serve(700)
    rows = list(sandbox.customers.values())
    day = rows[400]["created_at"][:10]
    for row in rows[300:500]:
        row["created_at"] = f"{day}T09:00:00+00:00"

    sync(sandbox, scan_by="auto", filter_created_to=day)

    for url in filter(is_window, sandbox.urls):
        first, last = days_of(url)
        assert first is None or last is None or first <= last


def test_a_day_after_a_crowded_one_is_compared(company: Company) -> None:
    company.grow(500, days=100)
    company.add(200, company.now - DAY)
    company.add(300, company.now - timedelta(hours=3), active=False)

    company.run()

    assert failed_scans(company.outputs[-1]) == 1


def test_a_customer_that_comes_to_match_a_filter_is_not_taken_for_skipped(
    serve: Serve,
) -> None:
    sandbox = serve(1000)
    others = [row for row in sandbox.customers.values() if row["owner"] != {"id": 1}]
    others = [row for row in others if not row["last_activity_at"]]
    owner = {"id": 1, "name": "Rawa"}

    def give() -> None:
        if is_window(sandbox.urls[-1]) and others:
            sandbox.edit(others.pop()["id"], owner=owner)
            sandbox.edit(others.pop()["id"], owner=owner)

    sandbox.meanwhile = give

    output = sync(sandbox, scan_by="auto", filter_owner_ids=[1])

    assert failed_scans(output) == 0


def test_the_start_date_holds_also_where_the_cursor_is_left(serve: Serve) -> None:
    sandbox = serve(1000, drops_nulls=True)
    start = "2026-02-01T00:00:00+00:00"

    output = sync(sandbox, scan_by="auto", start_date=start)

    assert failed_scans(output) == 1
    assert set(output.ids) == {
        row["id"]
        for row in sandbox.customers.values()
        if max(row["updated_at"], row["last_activity_at"] or "") >= start
    }


@pytest.mark.parametrize("kill_after", [120, 900, 1400])
@pytest.mark.parametrize(
    ("fault", "nulls"), [(None, ""), (None, "~"), ("drops_nulls", "")]
)
def test_a_resumed_run_has_no_cross_check_and_the_next_one_has(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    fault: str | None,
    nulls: str,
    kill_after: int,
) -> None:
    """What the earlier run has read is not known."""
    caplog.set_level(logging.INFO)
    sandbox = serve(2000, **({fault: True} if fault else {}))
    sorts_nulls(sandbox, nulls)
    killed = sync(sandbox, scan_by="auto", kill_after=kill_after)
    sandbox.requests.clear()

    resumed = sync(sandbox, scan_by="auto", state=killed.state)

    assert not any(map(is_window, sandbox.urls))
    assert "Cross-check" not in caplog.text
    third = sync(sandbox, scan_by="auto", state=resumed.state)
    assert is_complete(sandbox, killed, resumed, third)
    assert failed_scans(third) == bool(fault)


def test_a_full_refresh_that_was_interrupted_is_compared_by_the_next_run(
    serve: Serve,
) -> None:
    """Meltano merges its states into those of before."""
    sandbox = serve(1000)
    first = sync(sandbox, scan_by="auto")
    sandbox.drops_nulls = True
    killed = sync(sandbox, scan_by="auto", kill_after=250)

    resumed = sync(sandbox, scan_by="auto", state=merge(first.state, killed.state))
    third = sync(sandbox, scan_by="auto", state=resumed.state)

    assert failed_scans(third) == 1
    assert is_complete(sandbox, killed, resumed, third)


def test_reading_by_created_date_instead_is_resumed(serve: Serve) -> None:
    """From the first window on, or from further down: but not by the cursor again."""
    sandbox = serve(450, drops_nulls=True)
    whole = sync(sandbox, scan_by="auto")
    switched = next(
        at
        for at, message in enumerate(whole.messages)
        if message["type"] == "STATE"
        and open_scan(message["value"])["mode"] == "created_date"
    )
    for kill_after in (switched + 1, len(whole.messages) - 3):
        killed = sync(sandbox, scan_by="auto", kill_after=kill_after)
        sandbox.requests.clear()

        again = sync(sandbox, scan_by="auto", state=killed.state)

        assert is_complete(sandbox, killed, again)
        assert not any("cursor=" in url for url in sandbox.urls)


def test_deletes_are_announced_where_the_cursor_skips(serve: Serve) -> None:
    sandbox = serve(450, drops_nulls=True)

    output = full_table(sandbox, scan_by="auto")

    assert is_complete(sandbox, output)
    assert output.kinds == ["SCHEMA", "RECORD", "ACTIVATE_VERSION", "STATE"]


# What must not be forgotten between runs.


def test_deletes_need_a_complete_round_in_the_same_run(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(1000)

    output = full_table(sandbox, scan_by="auto")

    assert any(map(is_window, sandbox.urls))
    assert len(output.of("ACTIVATE_VERSION")) == 1
    assert warnings(caplog) == []


@pytest.mark.parametrize("midnight", ["T00:00:00+00:00", "T00:00:00+03:00"])
def test_a_list_of_days_announces_no_deletes(company: Company, midnight: str) -> None:
    """10 get an activity while page 8 is read; a day begins in any zone."""
    sandbox = company.sandbox
    sandbox.drops_nulls = False
    company.grow(1500, days=300)
    holds_days(sandbox, midnight)
    sandbox.meanwhile = lambda: [
        sandbox.change(id_, last_activity_at=sandbox.now())
        for id_ in range(1, 11)
        if len(sandbox.requests) == 8
    ]

    output = full_table_of(company)

    assert company.is_complete
    assert output.of("ACTIVATE_VERSION") == []


@pytest.mark.parametrize("active", [True, False])
def test_customers_without_a_created_date_are_remembered(
    company: Company, caplog: pytest.LogCaptureFixture, *, active: bool
) -> None:
    """No window holds them, and the cursor may come to skip them."""
    company.add(40, company.now - 60 * DAY)
    company.add(10, company.now - 50 * DAY, active=active, created_at=None)
    full_table_of(company)
    company.grow(600, days=60)
    company.add(20, company.now - 30 * DAY, active=False)

    for _ in range(3):
        output = full_table_of(company)
        assert output.of("ACTIVATE_VERSION") == []
        assert any("without a created date" in said for said in warnings(caplog))
        caplog.clear()


@pytest.mark.slow
def test_a_round_that_is_not_done_goes_on_after_a_week(company: Company) -> None:
    company.sandbox.rate_limit = 60
    company.grow(7700, days=700)
    company.add(50, company.now - 690 * DAY, active=False)

    runs = 0
    while not company.is_complete:
        company.run()
        company.now += 8 * DAY
        runs += 1
        assert runs <= 5


def test_what_could_not_be_compared_is_compared_by_a_later_run(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    company.grow(1000, days=100)
    company.run()
    company.now += 4 * DAY
    company.add(30, company.now - 3 * DAY, active=False)
    company.sandbox.fail(faults.refused(503, "Down"), at=10 + 2 + 1, times=8)
    company.run()
    assert not company.is_complete
    assert "Giving up" not in warnings(caplog)[-1]
    company.now += 2 * DAY

    company.run()

    assert company.is_complete


@pytest.mark.parametrize("at", ["the list", "the switch"])
def test_a_kill_does_not_hide_what_was_to_be_compared(
    company: Company, at: str
) -> None:
    company.grow(1000, days=100)
    company.run()
    company.now += 4 * DAY
    company.add(30, company.now - 3 * DAY, active=False)
    state = company.outputs[-1].state
    whole = sync(company.sandbox, scan_by="auto", state=state)
    states = [n for n, m in enumerate(whole.messages) if m["type"] == "STATE"]
    by_date = [
        at
        for at, value in enumerate(whole.states)
        if open_scan(value)["mode"] == "created_date"
    ]
    # Before the first page by created date, when the log has told of it already.
    company.run(kill_after=states[3 if at == "the list" else by_date[0] - 1] + 1)
    assert not company.is_complete
    company.now += timedelta(hours=1)

    for _ in range(2):
        company.run()
        company.now += timedelta(hours=1)

    assert company.is_complete


def test_imports_between_a_kill_and_the_next_run_arrive(company: Company) -> None:
    """Some are on pages that the killed run has read, and some on those after."""
    company.sandbox.drops_nulls = False
    company.grow(1000, days=400)
    company.run()
    company.now += timedelta(hours=1)
    company.run(kill_after=6)
    for at in range(95):
        company.add(1, company.now - (20 + 4 * at) * DAY)

    for _ in range(3):
        company.run()
        company.now += timedelta(hours=1)

    assert company.is_complete


def test_days_of_imports_do_not_tell_whether_filters_include_their_day(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """Three imports, each with one created date; an ordinary day tells."""
    company.grow(2000, days=50)
    for days in (10, 20, 30):
        for row in company.add(55, company.now - days * DAY):
            row["created_at"] = spell(company.now - days * DAY)

    output = full_table_of(company)

    assert saved(output)["traits"]["overlap"] == [0, 0]
    assert warnings(caplog) == []
    assert len(output.of("ACTIVATE_VERSION")) == 1


@pytest.mark.parametrize("hours", [-8, 0, 3])
def test_the_end_of_a_filter_may_leave_its_day_out(
    company: Company, hours: int
) -> None:
    """A company at work from nine to six, in its own zone."""
    zone = timezone(timedelta(hours=hours))
    company.sandbox.zone = zone
    company.sandbox.includes_to = False
    for days in range(1, 41):
        noon = datetime(2026, 3, 2, 12, tzinfo=zone) - days * DAY
        for at in range(30):
            company.add(1, noon + timedelta(minutes=10 * at))

    company.run()

    assert saved(company.outputs[-1])["traits"]["overlap"] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("year", ["1970", "2099"])
def test_one_odd_created_date_costs_little(company: Company, year: str) -> None:
    company.grow(3000, days=50)
    company.add(1, company.now - DAY, created_at=f"{year}-01-01T00:00:00+00:00")
    for _ in range(4):
        company.run()
    company.now += DAY
    company.grow(60, days=1)

    company.run()

    # What is new, and the share of the older ones.
    assert company.windows <= 5 + 30


def test_an_import_long_after_the_newest_known_customer_costs_little(
    company: Company,
) -> None:
    company.grow(1500, days=80)
    company.run()
    company.now += 280 * DAY
    company.add(80, company.now - 2 * DAY, last_activity_at=None)
    company.add(40, company.now - timedelta(hours=2), last_activity_at=None)

    company.run()

    assert company.is_complete
    # 17 pages of customers, and no window of days for each month without any.
    assert company.windows <= 55


def test_activities_in_the_future_can_be_skipped_too(company: Company) -> None:
    company.sandbox.drops_nulls = False
    company.sandbox.drops_seconds = True
    company.grow(1000, days=100)
    for id_ in range(300, 500):
        company.sandbox.change(id_, last_activity_at="2026-06-01T09:00:00+00:00")

    company.run()

    assert company.is_complete


def test_an_outage_on_the_head_is_no_reason_to_leave_the_cursor(
    company: Company,
) -> None:
    company.grow(500, days=100)
    # 5 pages and their end.
    company.sandbox.fail(faults.refused(500, "Server Error"), at=5 + 1 + 1, times=8)

    with pytest.raises(FatalAPIError, match="500"):
        company.run()

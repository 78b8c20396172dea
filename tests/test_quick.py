"""Quick runs: what was active or created since the last run, and nothing else."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from tap_homele import records, streams
from tap_homele.sync import created
from tests.sandbox import faults
from tests.sandbox.customers import make_customers, spell
from tests.singer import (
    Output,
    catalog_of,
    is_open,
    stream_state,
    sync,
)
from tests.world import summary, warnings

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.sandbox import Sandbox

UNKNOWN_ORDER = (
    "Full scan: none of this list has shown yet that it is sorted by last activity."
)
NOW = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


class Account:
    """An account whose list is read each hour, and fully once a day."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.now = NOW
        self.output: Output | None = None
        sandbox.clock = self._clock
        # Those that were there from the beginning.
        self.ids = [*sandbox.customers]

    def _clock(self) -> float:
        return self.now.timestamp()

    @property
    def moment(self) -> str:
        return spell(self.now)

    def active(self, *customer_ids: int) -> None:
        for customer_id in customer_ids:
            self.sandbox.change(customer_id, last_activity_at=self.moment)

    def edit(self, customer_id: int) -> None:
        self.sandbox.change(customer_id, name="Edited", updated_at=self.moment)

    def add(self, count: int, **values: Any) -> list[int]:
        """Add customers without an activity; give their ids."""
        first = max(self.sandbox.customers) + 1
        for number, row in enumerate(make_customers(count, seed=first), first):
            row |= {"id": number, "created_at": self.moment, "updated_at": self.moment}
            self.sandbox.add(row | {"last_activity_at": None} | values)
        return [*range(first, first + count)]

    def run(self, after: timedelta = HOUR, **settings: Any) -> Output:
        self.now += after
        self.sandbox.requests.clear()
        options = {"full_scan_every_hours": 24, "scan_by": "auto"} | settings
        begun = self.output.state if self.output else None
        self.output = sync(self.sandbox, state=begun, **options)
        return self.output


@pytest.fixture
def account(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    waited: list[float],  # noqa: ARG001
) -> Account:
    """Make an account that was read fully at noon."""
    caplog.set_level(logging.INFO)
    account = Account(serve(1000))
    monkeypatch.setattr(records, "utc_now", lambda: account.now)
    account.run(after=timedelta(0))
    account.now += timedelta(minutes=10)
    caplog.clear()
    return account


def choices(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give the lines that say which kind of run it is."""
    kinds = ("Quick run", "Full scan", "Resuming", "Not resuming", "The token")
    lines = [record.getMessage() for record in caplog.records]
    return [line for line in lines if line.startswith(kinds)]


def bookmark_of(output: Output) -> str:
    bookmark: str = stream_state(output)["replication_key_value"]
    return bookmark


def test_a_quick_run_sends_what_was_active_or_is_new(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    active = account.ids[:10]
    account.active(*active)
    new = account.add(3)
    account.edit(account.ids[500])
    before = account.output
    assert before

    output = account.run()

    assert sorted(output.ids) == [*active, *new]
    # A day to spare.
    day = "filter%5Bdate_from%5D=2026-03-01"
    assert account.sandbox.urls == [
        "/customers?per_page=100",
        f"/customers?per_page=100&{day}",
    ]
    assert choices(caplog) == [
        "Quick run: customers active or created since 2026-03-02T11:55:00+00:00."
    ]
    assert summary(caplog) == (
        "customers: 103 read, 13 changed and sent, in 2 requests and 0 s. Next full "
        "scan: changes since 2026-02-20T18:00:01Z."
    )
    assert warnings(caplog) == []
    assert bookmark_of(output) == bookmark_of(before)
    assert not is_open(output)

    # The next one starts from the quick run, and the full scan from the one before.
    assert account.run().ids == []
    full = account.run(after=24 * HOUR)

    assert {*active, *new, account.ids[500]} <= set(full.ids)
    assert len(account.sandbox.requests) > 10
    assert bookmark_of(full) > bookmark_of(before)


def test_a_customer_of_both_readings_comes_once(account: Account) -> None:
    new = account.add(2, last_activity_at=spell(account.now))

    assert sorted(account.run().ids) == new


def test_a_quick_run_reads_the_list_until_it_holds_still(account: Account) -> None:
    """More were active than fit on a page, and meanwhile another one is."""
    active = account.ids[:150]
    account.active(*active)

    def meanwhile() -> None:
        if len(account.sandbox.requests) == 1:
            account.sandbox.change(
                active[20], last_activity_at=spell(account.now + timedelta(seconds=1))
            )

    account.sandbox.meanwhile = meanwhile
    output = account.run()

    assert set(output.ids) == set(active)
    # Two pages of the head, the first page again, the window.
    assert len(account.sandbox.requests) == 4


def test_details_come_with_a_quick_run(account: Account) -> None:
    account.run(customer_details=True)
    account.active(account.ids[7])

    output = account.run(customer_details=True)

    assert [r["id"] for r in output.records_of("customer_details")] == [account.ids[7]]


def test_an_interrupted_quick_run_runs_again(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    account.active(*account.ids[:5])
    settings = {"full_scan_every_hours": 24, "scan_by": "auto"}
    account.now += HOUR
    assert account.output
    for messages in range(1, 9):
        killed = sync(
            account.sandbox,
            state=account.output.state,
            kill_after=messages,
            **settings,
        )
        if killed.of("STATE"):
            account.output = killed

    caplog.clear()
    assert account.run().ids == account.ids[4::-1]
    assert choices(caplog) == [
        "Quick run: customers active or created since 2026-03-02T11:55:00+00:00."
    ]
    assert (
        len(account.sandbox.requests) == 3
    )  # the window is empty, so it is asked for twice


def test_more_new_customers_than_fit_on_a_page(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    new = account.add(130)

    assert sorted(account.run().ids) == new
    said = "New customers fill a page: the cursor may skip others, which come with the "
    assert f"{said}next full scan." in caplog.messages
    assert warnings(caplog) == []


def test_who_was_edited_and_is_read_comes_too(account: Account) -> None:
    assert account.output
    at_the_top, further_down = account.output.ids[1], account.output.ids[500]
    for customer_id in (at_the_top, further_down):
        account.edit(customer_id)

    output = account.run()

    assert output.ids == [at_the_top]


@pytest.mark.parametrize("created_at", ["2026-03-01 20:00:00", "2026-03-02", None])
def test_new_customers_tell_by_their_ids(
    account: Account, caplog: pytest.LogCaptureFixture, created_at: str | None
) -> None:
    """Their created date can be that of another system, a day, or missing."""
    new = account.add(2, created_at=created_at, updated_at="2026-03-01 20:00:00")

    expected = new if created_at else []
    assert sorted(account.run().ids) == expected
    # The next one has them already.
    assert account.run().ids == []
    # Those without a date come with a full scan. Then it is known that there are some.
    assert set(new) <= set(account.run(after=24 * HOUR).ids)
    caplog.clear()
    account.run()
    assert warnings(caplog) == [] if created_at else [created.UNDATED]


def test_a_planned_activity_comes_with_each_run(account: Account) -> None:
    """When it was planned is not known."""
    planned = account.ids[3]
    account.sandbox.change(planned, last_activity_at=spell(account.now + 24 * HOUR))

    assert account.run().ids == [planned]
    assert account.run().ids == [planned]


# When there is a full scan instead.


def test_without_the_setting_each_run_is_a_full_scan(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    account.run(full_scan_every_hours=0)

    assert len(account.sandbox.requests) > 10
    assert choices(caplog) == []


@pytest.mark.parametrize("hours", [23, 25])
def test_a_full_scan_is_due(
    account: Account, caplog: pytest.LogCaptureFixture, hours: int
) -> None:
    account.run(after=hours * HOUR)

    (line,) = choices(caplog)
    if hours < 24:
        assert line.startswith("Quick run")
    else:
        assert line == (
            "Full scan: the last one began at 2026-03-02T12:00:00+00:00, and now it is "
            "2026-03-03T13:10:00+00:00."
        )
    # The quick run before does not put it off.
    account.run()
    account.run()
    assert choices(caplog)[1].startswith("Quick run" if hours > 24 else "Full scan")
    assert choices(caplog)[2].startswith("Quick run")


def test_the_filters_changed(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    account.run(filter_owner_ids=[1])

    assert choices(caplog)[1:] == [UNKNOWN_ORDER]
    account.run(filter_owner_ids=[1])
    assert choices(caplog)[-1].startswith("Quick run")


def test_an_earlier_scan_was_interrupted(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    account.run(after=HOUR, full_scan_every_hours=0)
    assert account.output
    killed = sync(account.sandbox, state=account.output.state, kill_after=4)
    account.output = killed
    caplog.clear()

    account.run()

    assert len(account.sandbox.requests) >= 9
    (line,) = choices(caplog)
    assert line.startswith("Resuming the interrupted scan of 2026-03-02T")
    # It has not seen the order of the whole list.
    account.run()
    account.run()
    assert choices(caplog)[1] == (UNKNOWN_ORDER)
    assert choices(caplog)[2].startswith("Quick run")


@pytest.mark.parametrize("started", ["from nothing", "as a full refresh"])
def test_a_run_without_a_state_is_a_full_scan(
    account: Account, caplog: pytest.LogCaptureFixture, started: str
) -> None:
    account.output = None if started == "from nothing" else Output([])
    if account.output:
        account.output.messages = [{"type": "STATE", "value": {"bookmarks": {}}}]

    assert len(account.run().ids) == 1000
    assert choices(caplog) == [UNKNOWN_ORDER]


def test_a_full_table_is_a_full_scan(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    output = account.run(catalog=catalog_of("FULL_TABLE"))

    assert len(output.ids) == 1000
    assert choices(caplog) == ["Full scan: with FULL_TABLE each run is one."]


@pytest.mark.parametrize("order", ["unsorted", "days"])
def test_a_list_that_is_not_sorted_by_activity(
    account: Account, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    sandbox = account.sandbox
    if order == "unsorted":
        rows = [*sandbox.customers.values()]
        sandbox.clear()
        sandbox.key = lambda row: (row["created_at"], row["id"])
        for row in rows:
            sandbox.add(row)
    else:
        sandbox.render = lambda row: (
            row | {"last_activity_at": (row["last_activity_at"] or "")[:10] or None}
        )
    account.run(full_scan_every_hours=0, scan_by="cursor")

    account.run(scan_by="cursor")

    assert choices(caplog)[-1] == (UNKNOWN_ORDER)


def test_a_list_that_is_read_by_created_date(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    account.run(scan_by="created_date")
    account.run(scan_by="created_date")

    assert choices(caplog)[-1] == "Full scan: the list is read by created date."


@pytest.mark.parametrize(
    ("span", "now"),
    [
        (timedelta(hours=-2), "2026-03-02T10:10:00"),
        (timedelta(days=-30), "2026-01-31T12:10:00"),
    ],
)
def test_a_clock_that_was_set_back(
    account: Account, caplog: pytest.LogCaptureFixture, span: timedelta, now: str
) -> None:
    """What it has covered is not known."""
    account.run(after=span)

    began = "the last one began at 2026-03-02T12:00:00+00:00"
    assert choices(caplog) == [f"Full scan: {began}, and now it is {now}+00:00."]


@pytest.mark.parametrize("fault", ["filter", "cursor"])
def test_a_quick_run_that_cannot_be_read_becomes_a_full_scan(
    account: Account, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    account.edit(account.ids[500])
    new = account.add(60)
    account.run(after=12 * HOUR)
    new += account.add(60)
    if fault == "cursor":
        account.sandbox.fails_on_null = True
    else:
        account.sandbox.ignored = ("filter[date_from]",)

    output = account.run(scan_by="auto" if fault == "cursor" else "cursor")

    assert {account.ids[500], *new} <= set(output.ids)
    (said,) = [line for line in warnings(caplog) if "a full scan follows" in line]
    reasons = {
        "cursor": "GET /api/v2/crm/customers was answered with 500, 'Server Error'.",
        "filter": "Homele was asked for customers created in certain days, and "
        "answered with others. Tell Homele's support; with scan_by: cursor nothing "
        "depends on it.",
    }
    assert said == f"The quick run failed, a full scan follows: {reasons[fault]}"


def test_a_full_scan_after_a_quick_one_that_failed_counts_anew(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MANY_CUSTOMERS", 900)
    account.edit(account.ids[4])
    account.run(full_scan_every_hours=0)  # the bookmark is recent now
    account.now += HOUR
    account.active(account.ids[0])
    account.now += timedelta(minutes=6)
    account.edit(account.ids[0])
    account.sandbox.ignored = ("filter[date_from]",)

    output = account.run(scan_by="cursor")

    assert output.ids.count(account.ids[0]) == 2
    assert "customers: 1,000 read, 1 changed and sent, in " in summary(caplog)
    assert "Quick runs would have delayed 1 of these 1 changes." in caplog.messages


def test_a_full_scan_after_a_quick_one_that_failed_knows_nothing_of_its_doubts(
    account: Account, caplog: pytest.LogCaptureFixture
) -> None:
    """New customers filled a page, and then the third page could not be read."""
    account.add(230)
    account.sandbox.requests.clear()
    account.sandbox.fail(faults.refused(500, "Server Error"), at=4, times=8)

    account.run(scan_by="cursor")

    assert any("a full scan follows" in line for line in warnings(caplog))
    assert "New customers fill a page" not in summary(caplog)


# What to decide by.


def test_a_full_scan_says_what_quick_runs_would_leave_to_it(
    account: Account, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MANY_CUSTOMERS", 900)
    account.run(full_scan_every_hours=0)  # the bookmark is recent now
    account.edit(account.ids[4])
    account.run(full_scan_every_hours=0)
    account.now += HOUR
    active, edited_at_once, edited_later, edited_only = account.ids[:4]
    account.active(active, edited_at_once, edited_later)
    account.edit(edited_at_once)
    new = account.add(2)
    old = spell(NOW - 1000 * HOUR)
    (imported,) = account.add(1, created_at=old, updated_at=old)
    account.now += timedelta(minutes=4)
    account.edit(new[0])  # each quick run that sees the edit sees that it is new, too
    account.now += timedelta(minutes=2)
    account.edit(edited_later)
    account.edit(edited_only)

    output = account.run(full_scan_every_hours=0)

    changed = {active, edited_at_once, edited_later, edited_only, imported, *new}
    assert set(output.ids) == changed
    said = "Quick runs would have delayed 3 of these 7 changes."
    assert said in caplog.messages
    # Of a few it is not said.
    caplog.clear()
    monkeypatch.undo()
    account.run(full_scan_every_hours=0)
    assert not [line for line in caplog.messages if "uick runs" in line]

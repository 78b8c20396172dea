"""A customer comes once for each change."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.sandbox.customers import spell
from tests.singer import stream_state
from tests.world import DAY, Company, holds_days

if TYPE_CHECKING:
    from tests.singer import Output

HOUR = timedelta(hours=1)


@pytest.fixture
def quiet(company: Company) -> Company:
    """Make a company of 600 that nobody has called today, and read it."""
    company.sandbox.drops_nulls = False
    company.grow(600, days=100)
    company.now += DAY
    company.run()
    company.now += HOUR
    return company


def call(company: Company, *customer_ids: int) -> None:
    for customer_id in customer_ids:
        company.sandbox.change(customer_id, last_activity_at=spell(company.now))


def later(company: Company, span: timedelta = HOUR) -> Output:
    company.now += span
    return company.run(customer_details=False)


def test_customers_who_were_called_once_come_once(quiet: Company) -> None:
    """Also at night, when nobody else moves, and nobody edits anybody."""
    called = [*range(1, 41)]
    call(quiet, *called)

    assert sorted(later(quiet).ids) == called
    assert later(quiet).ids == []
    assert later(quiet, 12 * HOUR).ids == []


def test_a_customer_who_is_called_twice_comes_twice(quiet: Company) -> None:
    call(quiet, 7)
    assert later(quiet).ids == [7]
    call(quiet, 7)
    assert later(quiet).ids == [7]
    assert later(quiet).ids == []


def test_what_changed_after_the_cap_comes_twice(quiet: Company) -> None:
    call(quiet, 7)

    assert later(quiet, timedelta(minutes=2)).ids == [7]
    assert later(quiet).ids == [7]
    assert later(quiet).ids == []


@pytest.mark.parametrize("count", [1, 130])
def test_a_planned_activity_comes_in_each_run_until_it_is_past(
    quiet: Company, count: int
) -> None:
    planned = [*range(1, count + 1)]
    for customer_id in planned:
        at = spell(quiet.now + 7 * DAY)
        quiet.sandbox.change(customer_id, last_activity_at=at)

    for _ in range(3):
        assert sorted(later(quiet).ids) == planned
    # And nobody else is hidden by it.
    call(quiet, 300)
    quiet.sandbox.edit(301)
    assert sorted(later(quiet).ids) == [*planned, 300, 301]
    assert sorted(later(quiet).ids) == planned
    assert sorted(later(quiet, 8 * DAY).ids) == planned
    assert later(quiet).ids == []


def test_one_planned_activity_is_no_clock_for_times_that_are_behind(
    company: Company,
) -> None:
    """The times of a server without a zone, three hours behind; one is planned."""
    company.sandbox.drops_nulls = False
    company.grow(300, days=100)
    company.sandbox.change(7, last_activity_at=spell(company.now + 7 * DAY))
    company.run()
    company.now += HOUR
    behind = spell(company.now - 3 * HOUR)
    company.sandbox.change(8, last_activity_at=behind)
    company.sandbox.change(9, updated_at=behind)

    assert {8, 9} <= set(company.run().ids)


def test_the_bookmark_is_one_second_after_the_newest_time(quiet: Company) -> None:
    call(quiet, 7)
    newest = quiet.now
    quiet.sandbox.change(8, last_activity_at=spell(quiet.now + 7 * DAY))

    output = later(quiet)

    after = spell(newest + timedelta(seconds=1))
    assert stream_state(output)["replication_key_value"] == after


@pytest.mark.parametrize("midnight", ["T00:00:00+00:00", "T00:00:00+03:00"])
def test_a_list_of_days_is_compared_from_the_day_before(
    company: Company, midnight: str
) -> None:
    """Who is called on the day of the bookmark has the same day as its midnight."""
    sandbox = company.sandbox
    sandbox.drops_nulls = False
    company.grow(300, days=100)
    holds_days(sandbox, midnight)
    company.run()
    company.now += HOUR
    sandbox.edit(250)
    company.now += HOUR
    company.run()
    company.now += HOUR
    call(company, 7)

    assert 7 in company.run().ids


def test_a_bulk_edit_at_a_quarter_of_an_hour_is_no_list_of_days(
    company: Company,
) -> None:
    """250 with the same activity at 07:00:00 say nothing of the others."""
    company.sandbox.drops_nulls = False
    company.grow(600, days=100)
    seven = spell(company.now.replace(hour=7, minute=0, second=0))
    for customer_id in range(1, 251):
        company.sandbox.change(customer_id, last_activity_at=seven)
    company.run()
    company.now += HOUR

    assert company.run().ids == []

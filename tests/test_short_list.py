"""A list that ends early, or is empty, once: nothing is lost, nobody is deleted."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tap_homele.errors import PageError
from tests.sandbox import faults
from tests.singer import is_open, open_scan, saved
from tests.world import DAY, Company, full_table_of, warnings

if TYPE_CHECKING:
    from collections.abc import Callable

HOUR = timedelta(hours=1)


def ends(page: dict[str, Any]) -> None:
    page["meta"] |= {"has_more": False, "next_cursor": None}


def is_empty(page: dict[str, Any]) -> None:
    ends(page)
    page["data"] = []


@pytest.fixture
def honest(company: Company) -> Company:
    company.sandbox.drops_nulls = False
    company.grow(1000, days=200)
    return company


def once(
    company: Company, change: Callable[[dict[str, Any]], None], at: int, times: int = 1
) -> None:
    company.sandbox.fail(faults.page(company.sandbox, change), at=at, times=times)


@pytest.mark.parametrize("scan_by", ["auto", "cursor"])
@pytest.mark.parametrize(
    ("change", "at"), [(ends, 1), (ends, 2), (ends, 5), (is_empty, 1), (ends, 10)]
)
def test_a_first_run_is_complete(
    honest: Company, change: Callable[[dict[str, Any]], None], at: int, scan_by: str
) -> None:
    once(honest, change, at)

    output = honest.run(scan_by=scan_by)

    assert honest.is_complete
    assert len(output.ids) == 1000
    assert saved(output)["total"] == {"customers": 1000, "max_id": 1000}


@pytest.mark.parametrize(
    ("change", "at"), [(ends, 1), (ends, 2), (ends, 5), (is_empty, 1)]
)
def test_older_edits_come_with_an_incremental_run(
    honest: Company, change: Callable[[dict[str, Any]], None], at: int
) -> None:
    honest.run()
    honest.now += DAY
    edited = [*range(1, 11)]
    for customer_id in edited:
        honest.sandbox.edit(customer_id)
    honest.now += HOUR
    once(honest, change, at)

    assert sorted(honest.run().ids) == edited


@pytest.mark.parametrize(
    ("change", "at"), [(ends, 1), (ends, 2), (ends, 5), (is_empty, 1)]
)
def test_nobody_is_deleted(
    honest: Company, change: Callable[[dict[str, Any]], None], at: int
) -> None:
    once(honest, change, at)

    output = full_table_of(honest)

    assert sorted(output.ids) == [*range(1, 1001)]
    assert len(output.of("ACTIVATE_VERSION")) == 1


def test_an_account_of_sixty(company: Company) -> None:
    company.sandbox.drops_nulls = False
    company.grow(60, days=30)
    once(company, is_empty, at=1)

    output = full_table_of(company)

    assert sorted(output.ids) == [*range(1, 61)]
    assert len(company.sandbox.requests) == 2


@pytest.mark.parametrize("at", [1, 3, 6])
def test_a_resumed_slice(honest: Company, at: int) -> None:
    """On its first page, in the middle, and on the last page of the list."""
    killed = honest.run(kill_after=1 + 4 * 101 + 50)
    once(honest, ends, at)

    resumed = honest.run()

    assert len(killed.ids[:400]) + len(resumed.ids) == 1000
    assert honest.is_complete
    assert not is_open(resumed)


def test_until_it_is_complete_the_checkpoint_stays_at_that_page(
    honest: Company,
) -> None:
    once(honest, ends, at=5)
    # The page that ends the list, and then a kill: a state that says the same as the
    # one before is not written.
    killed = honest.run(kill_after=1 + 4 * 101 + 100)

    cursor = honest.sandbox.urls[4].partition("cursor=")[2]
    assert open_scan(killed)["position"]["cursor"] == cursor
    honest.run()
    assert honest.is_complete


@pytest.mark.parametrize("at", [2, 4, 8])
def test_an_empty_window_of_created_dates(honest: Company, at: int) -> None:
    once(honest, is_empty, at=at)

    output = honest.run(scan_by="created_date")

    assert honest.is_complete
    assert len(output.ids) == 1000


def test_a_list_that_stays_short_deletes_nobody_at_once(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """Asked for twice, it is empty both times."""
    full_table_of(honest)
    honest.now += HOUR
    once(honest, is_empty, at=1, times=2)

    output = full_table_of(honest)

    assert output.ids == []
    assert output.of("ACTIVATE_VERSION") == []
    said = (
        "Of 1,000 customers that the last full scan has seen, 0 are left: deletes wait "
        "until the next full scan agrees."
    )
    assert warnings(caplog) == [said, f"No customer is marked as deleted: {said}"]
    honest.now += HOUR
    whole = full_table_of(honest)
    assert len(whole.of("ACTIVATE_VERSION")) == 1
    assert len(whole.ids) == 1000


def test_a_list_that_ends_and_goes_on_for_ever_is_an_error(honest: Company) -> None:
    turns = iter(range(10**6))

    def now_and_then(page: dict[str, Any]) -> None:
        if next(turns) % 2 == 0:
            ends(page)
        else:
            page["meta"] |= {"has_more": True, "next_cursor": f"garbled-{next(turns)}"}

    once(honest, now_and_then, at=1, times=10**6)

    with pytest.raises(PageError, match="has come 10 times before"):
        honest.run()


def test_a_full_window_that_ends_early_deletes_nobody(company: Company) -> None:
    """More customers than a window was expected to have; the answer ends once."""
    company.sandbox.drops_nulls = False
    company.grow(1000, days=200)
    company.add(180, company.now - 40 * DAY)
    windows = iter(range(10**6))

    def once_where_it_is_full(page: dict[str, Any]) -> None:
        if page["meta"]["has_more"] and next(windows) in {1, 3, 5, 7}:
            ends(page)

    once(company, once_where_it_is_full, at=3, times=10**6)

    output = full_table_of(company, scan_by="created_date")

    assert sorted(output.ids) == [*range(1, 1181)] or not output.of("ACTIVATE_VERSION")
    assert company.is_complete


@pytest.mark.parametrize("scan_by", ["auto", "cursor"])
def test_the_second_answer_says_nothing_of_the_order(
    company: Company, caplog: pytest.LogCaptureFixture, scan_by: str
) -> None:
    """Somebody is called, and somebody edited, between the two."""
    company.sandbox.drops_nulls = False
    company.grow(60, days=30)
    company.run(scan_by=scan_by)
    company.now += DAY

    def call() -> None:
        if len(company.sandbox.requests) == 2:
            company.sandbox.change(5, last_activity_at=company.sandbox.now())
            company.sandbox.edit(20)

    company.sandbox.meanwhile = call

    output = company.run(scan_by=scan_by)

    assert sorted(output.ids) == [5, 20]
    assert warnings(caplog) == []
    assert saved(output)["traits"]["is_sorted"]


def test_an_empty_answer_on_the_first_page_of_a_resumed_run(honest: Company) -> None:
    honest.run(kill_after=1 + 4 * 101 + 50)
    once(honest, is_empty, at=1)

    assert len(honest.run().ids) == 600

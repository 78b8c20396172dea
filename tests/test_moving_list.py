"""The list moves while it is read: nobody is deleted who lives."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.sandbox.customers import spell
from tests.singer import catalog_of
from tests.world import Company, full_table_of, is_window, warnings

if TYPE_CHECKING:
    from collections.abc import Callable

BULK = range(1, 351)


@pytest.fixture
def busy(company: Company) -> Company:
    """Make a company of 1,500 whose server takes a second for each answer."""
    company.sandbox.drops_nulls = False
    company.grow(1500, days=300)
    return company


def meanwhile(company: Company, happens: Callable[[int], object]) -> None:
    """Let something happen before each request for a page of the list."""

    def tick() -> None:
        company.now += timedelta(seconds=1)
        happens(len(company.sandbox.requests))

    company.sandbox.meanwhile = tick


def bulk_edit(company: Company) -> None:
    at = spell(company.now)
    for customer_id in BULK:
        company.sandbox.change(customer_id, last_activity_at=at)


def pages(company: Company) -> int:
    return len([url for url in company.sandbox.urls if not is_window(url)])


@pytest.mark.parametrize("deletes", [True, False])
def test_a_bulk_edit_just_before_is_no_movement(
    busy: Company, caplog: pytest.LogCaptureFixture, *, deletes: bool
) -> None:
    bulk_edit(busy)
    meanwhile(busy, lambda _: None)

    output = full_table_of(busy) if deletes else busy.run()

    assert len(output.ids) == 1500
    # The list, its end, the four pages of its top; and its first page, to see that
    # nobody moved while the others were read.
    assert pages(busy) == 15 + 1 + 4 + deletes
    assert len(output.of("ACTIVATE_VERSION")) == deletes
    assert warnings(caplog) == []


@pytest.mark.parametrize("deletes", [True, False])
def test_a_bulk_edit_while_a_page_is_read(
    busy: Company, caplog: pytest.LogCaptureFixture, *, deletes: bool
) -> None:
    meanwhile(busy, lambda at: bulk_edit(busy) if at == 8 else None)

    output = full_table_of(busy) if deletes else busy.run()

    assert busy.is_complete
    # Each once, and those of the bulk edit twice that were read before it.
    assert 1500 <= len(output.ids) <= 1500 + 350
    assert len(output.of("ACTIVATE_VERSION")) == deletes
    assert pages(busy) <= 15 + 1 + 4 + deletes * 5
    assert warnings(caplog) == []


@pytest.mark.parametrize("bulk_at", [0, 4, 12])
def test_somebody_who_jumps_during_each_reading_of_the_top(
    busy: Company, bulk_at: int
) -> None:
    """From below what was read to the top, before the second page of the top."""
    jumper = min(
        busy.sandbox.customers.values(), key=lambda row: row["last_activity_at"]
    )

    def happens(at: int) -> None:
        if at == bulk_at:
            bulk_edit(busy)
        url = busy.sandbox.urls[-1] if busy.sandbox.urls else ""
        if at == 3 or (at > 16 and not is_window(url)):
            busy.sandbox.change(jumper["id"], last_activity_at=spell(busy.now))

    if not bulk_at:
        bulk_edit(busy)
    meanwhile(busy, happens)

    output = full_table_of(busy)

    assert jumper["id"] in output.ids or output.of("ACTIVATE_VERSION") == []
    assert busy.is_complete


@pytest.mark.parametrize("late", [5, 50, 240])
@pytest.mark.parametrize("at", [3, 10, 16, 17, 18, 19, 20])
def test_an_activity_that_is_saved_late_lands_in_the_middle_of_the_top(
    busy: Company, at: int, late: int
) -> None:
    """On its second page or below, behind a bulk edit."""
    oldest = min(
        busy.sandbox.customers.values(), key=lambda row: row["last_activity_at"]
    )
    bulk_edit(busy)

    def happens(request: int) -> None:
        if request == at:
            value = spell(busy.now - timedelta(seconds=late))
            busy.sandbox.change(oldest["id"], last_activity_at=value)

    meanwhile(busy, happens)

    output = full_table_of(busy)

    assert oldest["id"] in output.ids
    assert len(output.of("ACTIVATE_VERSION")) == 1


def test_nothing_is_repeated_where_no_deletes_are_announced(busy: Company) -> None:
    meanwhile(
        busy,
        lambda at: busy.sandbox.change(1 + at % 300, last_activity_at=spell(busy.now)),
    )

    busy.run()

    assert pages(busy) == 15 + 1 + 1


def test_who_is_missed_by_the_one_reading_comes_with_the_next_run(
    busy: Company,
) -> None:
    """It jumps from the second page of the top to the first, which was read."""
    oldest = min(
        busy.sandbox.customers.values(), key=lambda row: row["last_activity_at"]
    )

    def happens(at: int) -> None:
        if at == 8:
            busy.sandbox.change(oldest["id"], last_activity_at=spell(busy.now))
            busy.now += timedelta(seconds=1)
            bulk_edit(busy)
        urls = busy.sandbox.urls
        if urls.count("/customers?per_page=100") == 2 and "cursor=" in urls[-1]:
            busy.sandbox.change(oldest["id"], last_activity_at=spell(busy.now))

    meanwhile(busy, happens)
    first = busy.run(scan_by="cursor")
    assert oldest["id"] not in first.ids
    busy.sandbox.meanwhile = None
    busy.now += timedelta(hours=1)

    assert oldest["id"] in busy.run(scan_by="cursor").ids


@pytest.mark.parametrize("column", ["last_activity_at", "updated_at", "created_at"])
def test_a_column_that_the_tap_needs_can_be_left_out(
    busy: Company, column: str
) -> None:
    """The SDK takes it out of a record when that is yielded."""
    catalog = catalog_of()
    catalog["customers"].metadata["properties", column].selected = False
    options = {"catalog": catalog, "full_scan_every_hours": 24}
    meanwhile(busy, lambda at: bulk_edit(busy) if at == 8 else None)
    first = busy.run(**options)
    assert {row["id"] for row in first.records} == set(range(1, 1501))
    busy.now += timedelta(hours=1)
    busy.sandbox.meanwhile = None
    bulk_edit(busy)

    quick = busy.run(**options)

    assert sorted(quick.ids) == [*BULK]
    assert pages(busy) <= 5
    # The replication key is always selected.
    is_there = column == "updated_at"
    assert all((column in record) is is_there for record in quick.records)
    # And where the cursor is left.
    busy.now += timedelta(days=2)
    busy.add(3, busy.now - timedelta(days=40), active=False)
    busy.sandbox.drops_nulls = True
    busy.run(**options)
    assert busy.is_complete

"""A scan in several runs: it does not grow old, and loses nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tap_homele.errors import OutageError
from tests.sandbox import faults
from tests.singer import catalog_of, is_open, open_scan, saved
from tests.world import DAY, Company, is_complete

if TYPE_CHECKING:
    from tests.singer import Output


def confirmed(output: Output) -> set[int]:
    """Give the ids up to the last state, which is what a target has stored."""
    last = max(n for n, m in enumerate(output.messages) if m["type"] == "STATE")
    messages = output.messages[:last]
    return {m["record"]["id"] for m in messages if m["type"] == "RECORD"}


def test_a_first_load_in_nine_slices_over_two_weeks(company: Company) -> None:
    """Imports between them, with and without old dates."""
    company.sandbox.drops_nulls = False
    company.grow(1000, days=400)
    stored: set[int] = set()
    began = ""
    for night in range(8):
        output = company.run(kill_after=2 + 101 + 30)
        stored |= confirmed(output)
        began = began or open_scan(output)["started"]
        assert open_scan(output)["started"] == began
        company.now += timedelta(hours=40)
        company.add(3, company.now - 2 * DAY)
        company.add(3, company.now - (300 + night) * DAY)
    last = company.run()
    assert not is_open(last)
    stored |= set(last.ids)
    company.now += DAY

    stored |= set(company.run().ids)

    assert stored == set(company.sandbox.customers)


@pytest.mark.parametrize("ends", [True, False])
def test_a_full_table_over_an_open_incremental_scan(
    company: Company, *, ends: bool
) -> None:
    company.sandbox.drops_nulls = False
    company.grow(1000, days=400)
    first = company.run(kill_after=1 + 4 * 101 + 30)
    before = saved(first)
    company.now += DAY

    full = company.run(
        catalog=catalog_of("FULL_TABLE"), **({} if ends else {"kill_after": 500})
    )

    assert is_open(full) is not ends
    if not ends:
        assert saved(full) == before
    company.now += DAY
    last = company.run()
    assert not is_open(last)
    if ends:
        assert len(full.ids) == 1000
    else:
        assert len(last.ids) == 600
        assert is_complete(company.sandbox, first, last)


def test_an_outage_on_the_first_page_of_a_resumed_run_costs_no_progress(
    company: Company,
) -> None:
    """Although the list without a cursor would answer afterwards."""
    company.sandbox.drops_nulls = False
    company.grow(1000, days=400)
    killed = company.run(kill_after=1 + 4 * 101 + 30)
    company.sandbox.fail(faults.refused(503, "Down"), times=8)

    with pytest.raises(OutageError):
        company.run()
    # The failed run has left no state.
    resumed = company.run()

    assert len(resumed.ids) == 600
    assert confirmed(killed) | set(resumed.ids) == set(company.sandbox.customers)

"""When the cursor is left: for one run, and for good after two."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import Any

import pytest

from tap_homele.http import Session
from tests.sandbox import faults
from tests.sandbox.customers import spell
from tests.singer import Output, failed_scans, is_open, sync
from tests.world import DAY, Company, is_complete, is_window, sorts_nulls, warnings

HOUR = timedelta(hours=1)
ONCE = "Reading by created date in this run. The next full scan begins by the cursor"
FOR_GOOD = "A full refresh gives the cursor another chance."


@pytest.fixture
def honest(company: Company) -> Company:
    company.sandbox.drops_nulls = False
    company.grow(1000, days=200)
    return company


def asks_by_cursor(company: Company) -> bool:
    return any("cursor=" in url for url in company.sandbox.urls)


def next_run(company: Company, **options: object) -> Output:
    company.now += HOUR
    return company.run(**options)


# The server fails on its cursor.


def test_an_outage_is_no_fault_of_the_cursor(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """500 on page 3 for as long as the retries last, and then all is well."""
    honest.run()
    honest.now += DAY
    honest.sandbox.fail(faults.refused(500, "Server Error"), at=3, times=9)

    output = honest.run()

    assert failed_scans(output) == 0
    assert output.ids == []
    assert not [line for line in warnings(caplog) if "created date" in line]


@pytest.mark.parametrize("times", [1, 2])
def test_a_cursor_that_fails_twice_and_then_works_is_used(
    honest: Company, times: int
) -> None:
    honest.sandbox.fail(faults.refused(500, "Server Error"), at=3, times=times)

    output = honest.run()

    assert honest.waited == [1, 2][:times]
    assert failed_scans(output) == 0
    assert len(output.ids) == 1000


@pytest.mark.parametrize("nulls", ["", "~"])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_cursor_that_always_fails_costs_seconds_and_nobody_comes_twice(
    honest: Company, *, nulls: str, is_first: bool
) -> None:
    """PostgreSQL, which sorts nulls first; MariaDB, with nulls at a page's end."""
    sorts_nulls(honest.sandbox, nulls)
    if not is_first:
        honest.run()
        honest.now += HOUR
    added = honest.add(150, honest.now - 300 * DAY, active=False)
    for at, row in enumerate(added):
        honest.sandbox.change(
            row["id"], created_at=spell(honest.now - (300 + at) * DAY)
        )
    honest.sandbox.fails_on_null = True

    output = honest.run()

    assert honest.is_complete
    assert sum(honest.waited) <= 10
    assert len(output.ids) == len(set(output.ids)) == (1150 if is_first else 150)
    assert failed_scans(output) == 1


def test_deep_pages_that_fail_for_one_run(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """The next full scan begins by the cursor again, whatever runs are between."""
    quick = {"full_scan_every_hours": 24}
    honest.run(**quick)
    deep = [url.partition("cursor=")[2] for url in honest.sandbox.urls]
    honest.sandbox.failing_cursors |= set(deep[5:10])
    honest.now += DAY

    left = honest.run(**quick)

    assert failed_scans(left) == 1
    assert ONCE in caplog.text
    honest.sandbox.failing_cursors.clear()
    honest.now += HOUR
    honest.run(kill_after=1, **quick)
    caplog.clear()
    after = next_run(honest, **quick)
    assert asks_by_cursor(honest)
    assert failed_scans(after) == 0
    assert "created date" not in caplog.text
    for _ in range(2):
        assert failed_scans(next_run(honest, **quick)) == 0
        assert len(honest.sandbox.urls) <= 4  # a quick run


def test_left_twice_is_left_for_good(
    honest: Company, caplog: pytest.LogCaptureFixture
) -> None:
    for at in range(105):
        honest.add(1, honest.now - (100 + at) * DAY, active=False)
    honest.sandbox.fails_on_null = True
    honest.run()
    caplog.clear()

    second = next_run(honest)

    (said,) = [line for line in warnings(caplog) if "Reading by created date" in line]
    assert said.endswith(FOR_GOOD)
    assert failed_scans(second) == 2
    honest.sandbox.fails_on_null = False
    for _ in range(3):
        caplog.clear()
        output = next_run(honest)
        assert output.ids == []
        assert not asks_by_cursor(honest)
        assert warnings(caplog) == []
    # A full refresh has no state.
    fresh = sync(honest.sandbox, scan_by="auto")
    assert failed_scans(fresh) == 0


def test_a_full_refresh_goes_back_to_the_cursor(company: Company) -> None:
    """Meltano gives the tap no state then, and the tap gives a whole new one."""
    company.grow(1000, days=200)
    company.add(5, company.now - 100 * DAY, active=False)
    company.run()
    for_good = next_run(company)
    assert failed_scans(for_good) == 2
    company.sandbox.drops_nulls = False

    refreshed = company.run(state=None)

    assert failed_scans(refreshed) == 0
    assert sorted(refreshed.ids) == sorted(company.sandbox.customers)
    next_run(company)
    assert asks_by_cursor(company)


# An import lands while the list is read.


@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize("at", ["before", "between", "after"])
def test_an_import_with_old_dates_on_an_honest_cursor(
    honest: Company, caplog: pytest.LogCaptureFixture, at: str, *, active: bool
) -> None:
    """Before, between and after the comparison: complete, and forgotten after that."""
    honest.run()
    honest.now += DAY
    begins = {
        # The last page, its end, the top; a window; and nothing more.
        "before": lambda: is_window(honest.sandbox.urls[-1]),
        "between": lambda: sum(map(is_window, honest.sandbox.urls)) == 4,
        "after": lambda: False,
    }
    added: list[int] = []

    def meanwhile() -> None:
        if not added and begins[at]():
            rows = honest.add(30, honest.now - 150 * DAY, active=active)
            added.extend(row["id"] for row in rows)

    honest.sandbox.meanwhile = meanwhile
    first = honest.run()
    if at == "after":
        honest.add(30, honest.now - 150 * DAY, active=active)

    # Whether a window that is still to come shows them is a matter of their dates.
    assert failed_scans(first) <= (at != "after")
    caplog.clear()
    second = next_run(honest)

    assert honest.is_complete
    assert failed_scans(second) == 0
    assert warnings(caplog) == []
    assert next_run(honest).ids == []


def test_an_import_is_complete_in_the_run_that_sees_it(honest: Company) -> None:
    """Where it is skipped for the first time, all are sent once."""
    honest.run()
    honest.now += DAY
    honest.sandbox.meanwhile = lambda: (
        honest.add(30, honest.now - 150 * DAY)
        if is_window(honest.sandbox.urls[-1]) and len(honest.sandbox.customers) == 1000
        else None
    )

    output = honest.run()

    assert sorted(output.ids) == [*range(1, 1031)]
    assert failed_scans(output) == 1


def test_an_import_that_the_cursor_hides(
    company: Company, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an activity, and with the highest ids: the ids say nothing."""
    company.grow(1000, days=200)
    company.run()
    company.now += DAY
    company.add(30, company.now - 150 * DAY, active=False)

    first = company.run()

    assert company.is_complete
    assert failed_scans(first) == 1
    # A second one: nobody else is sent again, and the cursor is left for good.
    company.now += DAY
    second_import = company.add(20, company.now - 120 * DAY, active=False)
    second = company.run()
    assert sorted(second.ids) == [row["id"] for row in second_import]  # each once
    assert failed_scans(second) == 2
    assert FOR_GOOD in caplog.text


def test_a_skip_after_a_failure_sends_all(company: Company) -> None:
    """The failure has sent only what had changed; others may be hidden since long."""
    hidden = [
        company.add(1, company.now - (150 + at) * DAY, active=False)[0]
        for at in range(105)
    ]
    company.grow(1000, days=100)
    # By the cursor alone nobody notices.
    company.run(scan_by="cursor")
    assert not company.is_complete
    company.sandbox.drops_nulls, company.sandbox.fails_on_null = False, True
    company.now += DAY
    failed = company.run()
    assert failed_scans(failed) == 1
    company.sandbox.drops_nulls, company.sandbox.fails_on_null = True, False

    skipped = next_run(company)

    assert {row["id"] for row in hidden} <= set(skipped.ids)
    assert company.is_complete


def test_a_cursor_that_drops_whoever_shares_a_second(company: Company) -> None:
    company.sandbox.drops_nulls, company.sandbox.drops_seconds = False, True
    company.grow(1000, days=200)
    at = spell(company.now - 50 * DAY)
    for customer_id in range(400, 550):
        company.sandbox.change(customer_id, last_activity_at=at)

    first = company.run()

    assert company.is_complete
    assert failed_scans(first) == 1
    assert failed_scans(next_run(company)) == 2


def test_what_was_hidden_is_sent_again_after_a_resumed_scan(company: Company) -> None:
    """It was resumed by the cursor, which has shown none of the hidden customers."""
    company.grow(1000, days=200)
    hidden = company.add(5, company.now - 100 * DAY, active=False)[0]["id"]
    company.run()
    company.now += HOUR
    company.sandbox.edit(hidden, name="Edited")
    company.now += HOUR
    company.sandbox.edit(500)
    company.now += HOUR
    company.run(kill_after=4)
    company.run()
    for _ in range(2):
        next_run(company)

    names = [
        row["name"]
        for output in company.outputs
        for row in output.records
        if row["id"] == hidden
    ]
    assert names[-1] == "Edited"


@pytest.mark.parametrize("scan_by", ["auto", "cursor"])
@pytest.mark.parametrize(("request_", "is_called"), [(11, True), (6, False)])
def test_an_import_of_which_a_run_sees_the_highest_id_alone(
    honest: Company, scan_by: str, request_: int, *, is_called: bool
) -> None:
    """It was called, and is on top; or it is new and uncalled, and at the end."""
    honest.run(scan_by=scan_by)
    honest.now += DAY

    def lands() -> None:
        is_there = len(honest.sandbox.customers) > 1000
        if len(honest.sandbox.requests) == request_ and not is_there:
            # On pages that were read already.
            honest.add(20, honest.now - 20 * DAY)
            if is_called:
                now = honest.sandbox.now()
                honest.add(1, honest.now - 20 * DAY, last_activity_at=now)
            else:
                honest.add(1, honest.now, active=False)

    honest.sandbox.meanwhile = lands
    honest.run(scan_by=scan_by)
    honest.sandbox.meanwhile = None
    next_run(honest, scan_by=scan_by)

    assert honest.is_complete
    assert next_run(honest, scan_by=scan_by).ids == []


class KilledError(BaseException):
    """The end of a run that nothing in it can catch."""


def killed_at(company: Company, request: int, state: dict[str, Any]) -> Output:
    """Run the tap until it sends its request with this number."""
    output, send, sent = Output([]), Session.send, itertools.count(1)

    def counted(self: Session, *args: Any, **options: Any) -> Any:
        if next(sent) == request:
            raise KilledError
        return send(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "send", counted)
        with pytest.raises(KilledError):
            sync(company.sandbox, scan_by="auto", state=state, output=output)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["fails_on_null", "drops_nulls"])
def test_a_kill_at_each_request_of_a_run_that_leaves_the_cursor(
    company: Company, fault: str
) -> None:
    sandbox = company.sandbox
    sandbox.drops_nulls = False
    company.grow(480, days=200)
    first = company.run()
    company.now += DAY
    company.add(40, company.now - 100 * DAY, active=False)
    setattr(sandbox, fault, True)
    sandbox.requests.clear()
    whole = sync(sandbox, scan_by="auto", state=first.state)
    assert failed_scans(whole) == 1
    requests = len(sandbox.requests)
    assert requests > 15

    for request in range(1, requests + 1):
        killed = killed_at(company, request, first.state)
        outputs, state = [first, killed], killed.state if killed.states else first.state
        for _ in range(2):
            company.now += HOUR
            outputs.append(sync(sandbox, scan_by="auto", state=state))
            state = outputs[-1].state
        assert is_complete(sandbox, *outputs), request
        assert not is_open(outputs[-1])

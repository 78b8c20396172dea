"""The list by created date, window by window."""

from __future__ import annotations

import itertools
import logging
import random
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import FatalAPIError

from tests.sandbox.customers import LAST_DAY, Customer, make_customers, spell
from tests.singer import (
    Output,
    failed_scans,
    is_open,
    open_scan,
    saved,
    stream_state,
    sync,
)
from tests.world import (
    days_of,
    full_table,
    is_complete,
    is_window,
    sorts_nulls,
    warnings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Serve
    from tests.sandbox import Sandbox


def test_the_way_can_be_chosen(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    sandbox = serve(450, drops_nulls=True)

    by_cursor = sync(sandbox, scan_by="cursor")
    assert len(by_cursor.ids) < 450
    assert not any(is_window(url) for url in sandbox.urls)
    assert failed_scans(by_cursor) == 0
    assert warnings(caplog) == []

    sandbox.requests.clear()
    by_date = sync(sandbox, scan_by="created_date")
    assert is_complete(sandbox, by_date)
    assert not any("cursor=" in url for url in sandbox.urls)
    trust = saved(by_date)["cursor_trust"]
    assert trust == {"failed_scans": 0, "sent_by_date": True}
    assert warnings(caplog) == []


# The windows.


def spread(count: int, *, days: int, seed: int = 1) -> list[Customer]:
    """Make customers that were created at random in so many days until today."""
    dice = random.Random(seed)
    now = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    made = make_customers(count, seed=seed)
    times = sorted(now - timedelta(seconds=dice.random() * days * 86400) for _ in made)
    for row, moment in zip(made, times, strict=True):
        row["created_at"] = spell(moment)
    return made


@pytest.fixture
def serve_rows(serve: Serve) -> Iterator[Callable[..., Sandbox]]:
    def make(made: list[Customer], **options: Any) -> Sandbox:
        sandbox = serve(0, **options)
        for row in made:
            sandbox.customers[row["id"]] = row
        return sandbox

    return make


ZONES = [timezone(timedelta(hours=hours)) for hours in (-11, 0, 3, 13)]


@pytest.mark.parametrize("zone", ZONES, ids=str)
@pytest.mark.parametrize("includes", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize(("count", "days"), [(700, 400), (700, 40), (500, 9000)])
def test_windows_are_complete_whatever_the_filters_mean(
    serve_rows: Callable[..., Sandbox],
    zone: timezone,
    includes: tuple[int, int],
    count: int,
    days: int,
) -> None:
    sandbox = serve_rows(
        spread(count, days=days),
        zone=zone,
        includes_from=bool(includes[0]),
        includes_to=bool(includes[1]),
        drops_nulls=True,
    )

    output = sync(sandbox, scan_by="created_date")

    assert is_complete(sandbox, output)
    # Also where windows overlap, each customer comes once.
    assert len(output.ids) == count
    assert len(sandbox.requests) <= 3.5 * count / 100


@pytest.mark.parametrize("a_day", [10, 30])
def test_customers_of_overlapping_windows_come_once(
    serve_rows: Callable[..., Sandbox], a_day: int
) -> None:
    """Where all are created at midnight, a window overlaps with the two before it."""
    rows = spread(600, days=600 // a_day)
    for row in rows:
        row["created_at"] = f"{row['created_at'][:10]}T00:00:00+00:00"
    sandbox = serve_rows(rows)

    output = sync(sandbox, scan_by="created_date")

    assert is_complete(sandbox, output)
    assert len(output.ids) == 600


@pytest.mark.parametrize("inclusive", [True, False])
def test_neighbouring_windows_leave_no_day_out(
    serve: Serve, *, inclusive: bool
) -> None:
    """They overlap only where the filters leave out their own day."""
    sandbox = serve(
        1000,
        clock=LAST_DAY.timestamp,
        includes_from=inclusive,
        includes_to=inclusive,
    )

    sync(sandbox, scan_by="created_date")

    # One that is empty is asked for twice.
    windows = list(dict.fromkeys(days_of(u) for u in sandbox.urls if is_window(u)))
    requests = 1 if inclusive else 6
    tried, windows = windows[:requests], windows[requests:]
    assert all(first and last and (last - first).days < 2 for first, last in tried)
    assert len(windows) <= (1.6 if inclusive else 1.8) * 10
    assert windows[0][1] is None
    assert windows[-1][0] is None
    for (newer, _), (_, older) in itertools.pairwise(windows):
        assert newer is not None
        assert older == newer + timedelta(days=-1 if inclusive else 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("per_day", "most"), [(0.5, 1.6), (4, 1.5), (12, 1.55), (30, 1.75)]
)
def test_windows_need_few_requests(
    serve_rows: Callable[..., Sandbox], per_day: float, most: float
) -> None:
    requests = 0
    for seed in (1, 2, 3):
        sandbox = serve_rows(spread(3000, days=int(3000 / per_day), seed=seed))
        sync(sandbox, scan_by="created_date")
        requests += len(sandbox.requests)

    # The first page is asked for once more, and so are empty windows.
    assert requests <= 3 * (most * 31 + 3)


def test_a_day_that_does_not_fit_on_a_page_is_read_by_the_cursor(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(700)
    days = sorted(row["created_at"][:10] for row in sandbox.customers.values())
    for row in list(sandbox.customers.values())[300:550]:
        row["created_at"] = f"{days[400]}T09:{row['id'] % 60:02}:00+00:00"

    output = sync(sandbox, scan_by="created_date")

    assert is_complete(sandbox, output)
    # With its neighbours, each of three days holds more than fit.
    sentences = warnings(caplog)
    assert 1 <= len(sentences) <= 3
    for sentence in sentences:
        assert sentence.startswith("More customers were created on 20")
        assert sentence.endswith("were read by the cursor, which may skip others.")
    assert any(f"created on {days[400]} than fit" in s for s in sentences)


@pytest.mark.parametrize("ahead", [1, 400, 40_000])
def test_created_dates_in_the_future_are_read(
    serve_rows: Callable[..., Sandbox], ahead: int
) -> None:
    made = spread(700, days=300)
    for at, row in enumerate(made[:350]):
        day = date(2026, 3, 2) + timedelta(days=at * ahead // 350)
        row["created_at"] = f"{day}T09:{at % 60:02}:00+00:00"
    now = datetime(2026, 3, 1, tzinfo=timezone.utc).timestamp()
    sandbox = serve_rows(made, clock=lambda: now)

    output = sync(sandbox, scan_by="created_date")

    assert is_complete(sandbox, output)
    assert len(sandbox.requests) < 90


def test_a_filter_that_is_not_minded_is_an_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(450)
    sandbox.ignored = ("filter[date_from]", "filter[date_to]")

    with pytest.raises(FatalAPIError, match="customers created in certain days"):
        sync(sandbox, scan_by="created_date")

    output = sync(sandbox, scan_by="auto")
    assert is_complete(sandbox, output)
    assert "could not be checked" in warnings(caplog)[0]


def test_the_filters_of_the_created_date_narrow_the_windows(serve: Serve) -> None:
    sandbox = serve(1000)
    asked = {"filter_created_from": "2024-09-01", "filter_created_to": "2025-11-30"}

    output = sync(sandbox, scan_by="created_date", **asked)

    assert sorted(set(output.ids)) == sorted(
        row["id"]
        for row in sandbox.customers.values()
        if "2024-09-01" <= row["created_at"][:10] <= "2025-11-30"
    )
    for url in sandbox.urls:
        first, last = days_of(url)
        assert first is not None
        assert last is not None
        assert date(2024, 9, 1) <= first <= last <= date(2025, 11, 30)


@pytest.mark.parametrize("created_at", ["0001-01-01T00:00:00+00:00", "0000-00-00"])
@pytest.mark.parametrize("count", [90, 110])
def test_created_dates_before_all_days_are_read_to_their_end(
    serve: Serve, caplog: pytest.LogCaptureFixture, created_at: str, count: int
) -> None:
    """The zero of Go and that of MySQL, which is no date."""
    sandbox = serve(330)
    for row in list(sandbox.customers.values())[:count]:
        row["created_at"] = created_at

    output = sync(sandbox, scan_by="created_date")

    assert is_complete(sandbox, output)
    assert len(sandbox.requests) < 100
    assert any("without a created date" in s for s in warnings(caplog)) is (
        created_at == "0000-00-00"
    )


def test_a_customer_without_a_created_date_is_read_from_the_top(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """No window has it, but who was active lately is on the first page."""
    sandbox = serve(330)
    first = sync(sandbox, scan_by="created_date")
    assert warnings(caplog) == []
    top = next(iter(sandbox.customers))
    sandbox.change(top, created_at=None, last_activity_at=sandbox.now())

    second = sync(sandbox, scan_by="created_date", state=first.state)

    assert top in second.ids
    assert any("without a created date" in said for said in warnings(caplog))
    assert full_table(sandbox, scan_by="created_date").of("ACTIVATE_VERSION") == []


def test_nobody_is_deleted_where_some_have_no_created_date(serve: Serve) -> None:
    sandbox = serve(330)
    for row in list(sandbox.customers.values())[:20]:
        row["created_at"] = "0000-00-00"

    output = full_table(sandbox, scan_by="created_date")

    assert output.of("ACTIVATE_VERSION") == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_day_whose_rest_cannot_be_had_is_an_error_after_all_others(
    serve: Serve,
    waited: list[float],
    killed: bool,  # noqa: FBT001
) -> None:
    """150 without an activity on one day, and a cursor that fails on them."""
    sandbox = serve(1000, fails_on_null=True)
    sorts_nulls(sandbox, "~")
    rows = list(sandbox.customers.values())
    for row in rows[400:550]:
        row |= {"created_at": rows[400]["created_at"], "last_activity_at": None}
    output = Output([])

    with pytest.raises(FatalAPIError, match="All others were read"):
        sync(sandbox, scan_by="auto", output=output)
    if killed:
        # After that day, but before the end: the next run still knows of it.
        after = len(output.messages) - 60
        output = sync(sandbox, scan_by="auto", kill_after=after)
        with pytest.raises(FatalAPIError, match="All others were read"):
            sync(sandbox, scan_by="auto", state=output.state, output=output)

    day = rows[400]["created_at"][:10]
    missing = set(sandbox.customers) - set(output.ids)
    assert {sandbox.customers[id_]["created_at"][:10] for id_ in missing} == {day}
    assert "replication_key_value" not in stream_state(output)
    assert waited
    # And when it is mended, all is read.
    sandbox.fails_on_null = False
    last = sync(sandbox, scan_by="auto", state=output.state)
    assert set(last.ids) == set(sandbox.customers)
    assert not is_open(last)


# Between runs, and deletes.


def test_a_bookmark_in_the_year_one_is_no_error(serve: Serve) -> None:
    sandbox = serve(250)
    for row in sandbox.customers.values():
        row |= {"updated_at": "0001-01-01 00:00:00", "last_activity_at": None}
    first = sync(sandbox, scan_by="auto")
    assert stream_state(first)["replication_key_value"] == "0001-01-01T00:00:01+00:00"

    assert sync(sandbox, scan_by="auto", state=first.state).ids == []


@pytest.mark.parametrize("messages", [30, 300, 700, 1000])
def test_a_window_that_was_read_is_not_read_again(serve: Serve, messages: int) -> None:
    sandbox = serve(1000, drops_nulls=True)
    killed = sync(sandbox, scan_by="created_date", kill_after=messages)
    asked = list(filter(is_window, sandbox.urls))
    sandbox.requests.clear()

    again = sync(
        sandbox,
        scan_by="created_date",
        state=killed.state if killed.states else None,
    )

    assert is_complete(sandbox, killed, again)
    finished = killed.of("STATE")
    if len(finished) > 1:
        # The first one tells whether the filters include their day.
        assert set(asked[1 : len(finished) - 1]).isdisjoint(sandbox.urls)
    assert not is_open(again)


@pytest.mark.parametrize(
    ("before", "after"), [("cursor", "created_date"), ("created_date", "cursor")]
)
def test_an_interrupted_scan_is_not_gone_on_with_in_another_way(
    serve: Serve, caplog: pytest.LogCaptureFixture, before: str, after: str
) -> None:
    sandbox = serve(450)
    killed = sync(sandbox, scan_by=before, kill_after=250)
    caplog.set_level(logging.INFO)

    output = sync(sandbox, scan_by=after, state=killed.state)

    assert is_complete(sandbox, output)
    assert "it read the list in another way" in caplog.text


@pytest.mark.parametrize("before", [None, [], "x", "2026-13-01", 7])
def test_a_checkpoint_without_a_day_is_not_taken_up(
    serve: Serve, before: object
) -> None:
    sandbox = serve(450)
    killed = sync(sandbox, scan_by="created_date", kill_after=250)
    open_scan(killed)["position"]["resume_before"] = before

    output = sync(sandbox, scan_by="created_date", state=killed.state)

    assert is_complete(sandbox, output)


def test_nobody_is_deleted_where_a_day_had_to_be_read_by_the_cursor(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(450)
    for row in sandbox.customers.values():
        row["created_at"] = "2026-01-01T09:00:00+00:00"

    output = full_table(sandbox, scan_by="created_date")

    assert is_complete(sandbox, output)
    assert output.of("ACTIVATE_VERSION") == []
    assert warnings(caplog)[-1].startswith("No customer is marked as deleted")


def test_an_incremental_run_emits_what_changed(serve: Serve) -> None:
    sandbox = serve(1000)
    first = sync(sandbox, scan_by="created_date")
    edited = sorted(sandbox.customers)[100:107]
    for customer_id in edited:
        sandbox.edit(customer_id, address="Gulan Street 7")

    second = sync(sandbox, scan_by="created_date", state=first.state)

    assert set(edited) <= set(second.ids) <= {*edited, newest_of(sandbox)}


def newest_of(sandbox: Sandbox) -> int:
    unedited = [
        r for r in sandbox.customers.values() if r["address"] != "Gulan Street 7"
    ]
    newest = max(unedited, key=lambda row: (row["updated_at"], row["id"]))
    return int(newest["id"])

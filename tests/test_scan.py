"""One scan: closed, resumed, started anew; and how it ends on a signal."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from singer_sdk.exceptions import FatalAPIError

from tests.sandbox import Sandbox, faults
from tests.singer import (
    Output,
    catalog_of,
    clean_environment,
    config_for,
    is_open,
    merge,
    open_scan,
    parse,
    run,
    saved,
    stream_state,
    sync,
)
from tests.world import full_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Serve

LONG_AGO = "2020-01-01T00:00:00+00:00"
PAGES = 10
NOT_DELETED = (
    "No customer is marked as deleted: Customers move in the list faster than it can "
    "be read: some may arrive with the next run only."
)


@pytest.fixture
def sandbox(serve: Serve) -> Sandbox:
    return serve(PAGES * 100)


def ids(urls: list[str]) -> list[str]:
    """Give the cursors that were asked for, "" for the first page."""
    return [url.partition("cursor=")[2] for url in urls]


def interrupted(sandbox: Sandbox, pages: int = 4) -> Output:
    """Run the tap until so many pages are confirmed, and half of the next is written.

    A page is its records and a STATE; before the first goes the SCHEMA.
    """
    return sync(sandbox, kill_after=1 + pages * 101 + 50)


def infos(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith(("tap_homele.", "tap-homele."))
        and "interrupted" in record.getMessage()
    ]


# Bookmark.


def around_the_cap(sandbox: Sandbox, began: float) -> None:
    """Give the only customer a time just before and one just after the cap."""
    (customer_id,) = sandbox.customers
    updated_at, active_at = (
        datetime.fromtimestamp(began - seconds, tz=timezone.utc).isoformat()
        for seconds in (301, 299)
    )
    sandbox.change(customer_id, updated_at=updated_at, last_activity_at=active_at)


def test_the_bookmark_stays_five_minutes_before_the_start(serve: Serve) -> None:
    # The server's clock is behind ours: its Date header says when the scan began.
    start = int(time.time()) - 3600
    sandbox = serve(1, clock=lambda: start)
    around_the_cap(sandbox, start)

    state = stream_state(sync(sandbox).state)

    five_minutes_before = datetime.fromtimestamp(start - 300, tz=timezone.utc)
    assert state["replication_key_value"] == five_minutes_before.isoformat()


@pytest.mark.parametrize("header", ["missing", "ahead"])
def test_the_local_clock_where_the_server_has_none_or_is_ahead(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    local = datetime(2026, 3, 1, 12, 0, 0, 250000, tzinfo=timezone.utc)
    monkeypatch.setattr("tap_homele.records.utc_now", lambda: local)
    sandbox = serve(1, clock=lambda: local.timestamp() + 7200)
    around_the_cap(sandbox, local.replace(microsecond=0).timestamp())
    if header == "missing":
        monkeypatch.setattr("tap_homele.streams.http_date", lambda _: None)

    state = stream_state(sync(sandbox).state)

    assert state["replication_key_value"] == "2026-03-01T11:55:00+00:00"


def test_a_clock_that_tells_another_offset_is_brought_to_utc(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = serve(450)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    erbil = now.astimezone(timezone(timedelta(hours=3)))
    monkeypatch.setattr(
        "tests.sandbox.server.formatdate",
        lambda *_, **__: f"{erbil:%a, %d %b %Y %H:%M:%S} +0300",
    )
    newest = max(sandbox.customers)
    sandbox.meanwhile = lambda: (
        sandbox.change(min(sandbox.customers), last_activity_at=now.isoformat())
        if len(sandbox.requests) == 3
        else None
    )
    just_before = (now - timedelta(seconds=301)).isoformat()
    sandbox.change(newest, updated_at=just_before)

    output = sync(sandbox)

    assert set(output.ids) == set(sandbox.customers)
    state = stream_state(output.state)
    expected = (now - timedelta(minutes=5)).isoformat()
    assert state["replication_key_value"] == expected


# Closing.


def test_a_customer_that_jumps_to_the_top_is_not_missed(sandbox: Sandbox) -> None:
    """As on real Laravel: it is gone from the pages ahead."""
    oldest = min(
        sandbox.customers.values(), key=lambda row: row["last_activity_at"] or "9"
    )

    def jump() -> None:
        if len(sandbox.requests) == 3:
            sandbox.change(oldest["id"], last_activity_at=sandbox.now())

    sandbox.meanwhile = jump

    output = sync(sandbox)

    assert sorted(output.ids) == sorted(sandbox.customers)
    assert output.ids[-1] == oldest["id"]
    # The end and the top are asked for again.
    assert len(sandbox.requests) == PAGES + 2


def ticking(sandbox: Sandbox) -> None:
    """Let a hundred seconds pass on the server with each request."""
    started = int(time.time())
    sandbox.clock = lambda: started + 100 * len(sandbox.requests)


def test_the_head_is_read_again_until_it_takes_one_page(sandbox: Sandbox) -> None:
    rows = sorted(
        sandbox.customers.values(), key=lambda row: row["last_activity_at"] or ""
    )
    first, second = rows[:150], rows[-1]
    ticking(sandbox)

    def jump() -> None:
        asked = ids(sandbox.urls)
        if len(asked) == 5:
            for row in first:
                sandbox.change(row["id"], last_activity_at=sandbox.now())
        # The head takes two pages. While the second is read, one more jumps.
        if asked.count("") == 2 and asked[-1]:
            sandbox.change(second["id"], last_activity_at=sandbox.now())

    sandbox.meanwhile = jump

    output = full_table(sandbox, scan_by="cursor")

    assert set(output.ids) == set(sandbox.customers)
    # The list; its top with those who jumped, with the other one, and with nobody new;
    # and its first page.
    again = ids(sandbox.urls)[1:].index("") + 1
    assert [cursor == "" for cursor in ids(sandbox.urls)[again:]] == [
        *([True, False] * 3),
        True,
    ]
    assert output.ids[-1] == second["id"]


def test_a_list_of_one_page_is_closed_already(serve: Serve) -> None:
    sandbox = serve(100)

    sync(sandbox)

    # The end is asked for again; the top is on it.
    assert len(sandbox.requests) == 2


@pytest.mark.parametrize("active", [0, 3, 130])
def test_customers_without_an_activity_do_not_end_the_head(
    serve: Serve, active: int
) -> None:
    """Databases sort them first, last, or by another date."""
    sandbox = serve(300)
    ticking(sandbox)
    for number, customer_id in enumerate(sandbox.customers):
        value = sandbox.now() if number < active else None
        sandbox.change(customer_id, last_activity_at=value)

    output = sync(sandbox)

    assert set(output.ids) == set(sandbox.customers)
    # Those that were active just now are read again, and not sent again.
    assert len(output.ids) == 300
    # Nobody was active before, so the top is the whole list.
    assert len(sandbox.requests) == 3 + 1 + 3 + 1


def test_the_database_may_be_behind_the_server(sandbox: Sandbox) -> None:
    """So a jump can carry a time from before the page that it was missed by."""
    rows = list(sandbox.customers.values())
    ticking(sandbox)

    def jump() -> None:
        asked = ids(sandbox.urls)
        behind = sandbox.clock() - 30
        value = datetime.fromtimestamp(behind, tz=timezone.utc).isoformat()
        if len(asked) == 5:
            for row in rows[:150]:
                sandbox.change(row["id"], last_activity_at=value)
        if asked.count("") == 2 and asked[-1]:
            sandbox.change(rows[149]["id"], last_activity_at=value)

    sandbox.meanwhile = jump

    assert set(sync(sandbox).ids) == set(sandbox.customers)


@pytest.mark.parametrize("method", ["INCREMENTAL", "FULL_TABLE"])
def test_activities_in_the_future_are_quiet(serve: Serve, method: str) -> None:
    sandbox = serve(250)
    for customer_id in list(sandbox.customers)[:150]:
        sandbox.change(customer_id, last_activity_at="2099-01-01T10:00:00+00:00")

    output = sync(
        sandbox, catalog=catalog_of(method), emit_activate_version_messages=True
    )

    # The top begins on the second page. It is read twice, where nobody may be missed.
    assert len(sandbox.requests) == 3 + 1 + (2 if method == "INCREMENTAL" else 4)
    assert len(output.of("ACTIVATE_VERSION")) == (method == "FULL_TABLE")


def test_customers_without_an_activity_may_come_first(serve: Serve) -> None:
    """As PostgreSQL sorts them."""
    sandbox = serve(1000)
    for customer_id in list(sandbox.customers)[:150]:
        sandbox.change(customer_id, last_activity_at=None)
    sandbox.key = lambda row: (row["last_activity_at"] or "9", row["id"])
    oldest = min(
        sandbox.customers.values(), key=lambda row: row["last_activity_at"] or "9"
    )

    def jump() -> None:
        if len(sandbox.requests) == 4:
            sandbox.change(oldest["id"], last_activity_at=sandbox.now())

    sandbox.meanwhile = jump

    output = sync(
        sandbox,
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
    )

    assert set(output.ids) == set(sandbox.customers)
    assert len(output.of("ACTIVATE_VERSION")) == 1
    nulls = sum(row["last_activity_at"] is None for row in sandbox.customers.values())
    # Who jumped comes with the first reading of the top, and two have nobody new.
    assert len(sandbox.requests) == 10 + 1 + 3 * (nulls // 100 + 1)


def test_a_resumed_list_without_activities_is_closed(serve: Serve) -> None:
    sandbox = serve(300)
    for customer_id in sandbox.customers:
        sandbox.change(customer_id, last_activity_at=None)
    first = sync(sandbox, kill_after=1 + 101 + 50)
    sandbox.requests.clear()

    second = sync(sandbox, state=first.state)

    assert set(first.ids[:100]) | set(second.ids) == set(sandbox.customers)
    # The rest, and the list once more, since nobody knows where its top is.
    assert len(sandbox.requests) == 2 + 1 + 3 + 1


def test_parts_of_a_second_are_not_an_order(serve: Serve) -> None:
    """The API can write some times with them and some without."""
    sandbox = serve(250)
    for number, customer_id in enumerate(sorted(sandbox.customers)):
        at = f"2026-02-20T10:00:00.{number:06}+00:00"
        sandbox.change(customer_id, last_activity_at=at)

    def render(row: dict[str, Any]) -> dict[str, Any]:
        at = row["last_activity_at"]
        return row | {"last_activity_at": at[:19] + "+00:00" if row["id"] % 2 else at}

    sandbox.render = render

    sync(sandbox)

    assert len(sandbox.requests) == 3 + 1 + 1


def test_a_day_as_last_activity_is_as_late_as_its_end(serve: Serve) -> None:
    """The cursor in the vendor's document holds a day."""
    sandbox = serve(250)
    sandbox.render = lambda row: (
        row
        | {"last_activity_at": row["last_activity_at"] and row["last_activity_at"][:10]}
    )
    sandbox.key = lambda row: ((row["last_activity_at"] or "")[:10], row["id"])
    first = sync(sandbox)
    changed = next(iter(sandbox.customers))
    sandbox.change(changed, last_activity_at=sandbox.now())

    second = sync(sandbox, state=first.state)

    assert changed in second.ids


@pytest.mark.parametrize("zone", ["+00:00", "+03:00", "+05:45"])
@pytest.mark.parametrize("page_size", [25, 100])
def test_a_day_is_a_midnight_in_any_zone(
    serve: Serve, caplog: pytest.LogCaptureFixture, zone: str, page_size: int
) -> None:
    """Also on pages that are all of one day."""
    caplog.set_level(logging.INFO)
    sandbox = serve(300)
    day = datetime.now(timezone.utc).date()
    for at, customer_id in enumerate(sorted(sandbox.customers)):
        midnight = f"{day - timedelta(days=10 + at // 10)}T00:00:00{zone}"
        sandbox.change(customer_id, last_activity_at=midnight)
    first = sync(sandbox, page_size=page_size)
    sandbox.edit(min(sandbox.customers))  # the bookmark is of today then
    second = sync(sandbox, page_size=page_size, state=first.state)
    active = sorted(sandbox.customers)[100:250]
    for customer_id in active:
        sandbox.change(customer_id, last_activity_at=f"{day}T00:00:00{zone}")

    third = sync(sandbox, page_size=page_size, state=second.state)

    assert set(active) <= set(third.ids)
    assert saved(third)["traits"]["holds_days"] is True
    assert "holds days" not in caplog.text  # there is nothing to do


def test_a_list_in_another_order_is_named_and_not_closed(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.key = lambda row: (row["created_at"], row["id"])

    output = sync(
        sandbox,
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
    )

    assert len(sandbox.requests) == PAGES + 1
    assert sorted(output.ids) == sorted(sandbox.customers)
    assert output.of("ACTIVATE_VERSION") == []
    assert [m for m in caplog.messages if "is not sorted by last activity" in m]


def test_a_list_that_does_not_hold_still_is_named(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(5)
    ticking(sandbox)

    def jump() -> None:
        for customer_id in sandbox.customers:
            sandbox.change(customer_id, last_activity_at=sandbox.now())

    sandbox.meanwhile = jump

    output = sync(
        sandbox,
        page_size=1,
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
    )

    assert output.of("ACTIVATE_VERSION") == []
    # The list, and ten times its top.
    assert ids(sandbox.urls).count("") == 1 + 10
    assert [m for m in caplog.messages if "faster than it can be read" in m]
    assert NOT_DELETED in caplog.messages


# Resuming.


def test_an_interrupted_scan_goes_on_where_it_was(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = interrupted(sandbox)
    asked = len(sandbox.urls)
    began = open_scan(first.state)["started"]

    second = sync(sandbox, state=first.state)

    # Four pages are confirmed; the fifth is asked for again, and the rest.
    assert ids(sandbox.urls)[:5] == ids(sandbox.urls[:5])
    assert asked == 5
    assert sandbox.urls[5] == sandbox.urls[4]
    assert len(sandbox.urls) == 5 + 6 + 2
    assert len(second.ids) == 600
    confirmed = set(first.ids[:400])
    assert not confirmed & set(second.ids)
    assert confirmed | set(second.ids) == set(sandbox.customers)
    assert infos(caplog) == [f"Resuming the interrupted scan of {began}."]
    assert not is_open(second.state)
    rows = sandbox.customers.values()
    newest = max(max(r["updated_at"], r["last_activity_at"] or "") for r in rows)
    after = datetime.fromisoformat(newest) + timedelta(seconds=1)
    assert stream_state(second)["replication_key_value"] == after.isoformat()


def test_each_page_is_followed_by_a_state(sandbox: Sandbox) -> None:
    output = sync(sandbox)

    at = [i for i, m in enumerate(output.messages) if m["type"] == "STATE"]
    assert at[:PAGES] == [101 * page for page in range(1, PAGES + 1)]
    cursors = [open_scan(state)["position"]["cursor"] for state in output.states[:9]]
    assert cursors == ids(sandbox.urls)[1:PAGES]
    assert len(set(cursors)) == 9


def test_the_last_message_is_a_state_also_when_nothing_changed(serve: Serve) -> None:
    """Some targets confirm only a state that comes after the last record."""
    sandbox = serve(1)
    first = sync(sandbox)

    second = sync(sandbox, state=first.state)

    assert second.kinds == ["STATE", "SCHEMA", "RECORD", "STATE"]
    assert second.state == first.state


@pytest.mark.parametrize("at", range(0, 1012, 53))
def test_killed_at_any_point_nothing_is_lost_or_asked_for_twice(
    sandbox: Sandbox, at: int
) -> None:
    first = sync(sandbox, kill_after=at)
    asked = len(sandbox.urls)
    states = first.states

    second = sync(sandbox, state=states[-1] if states else None)

    # A page has a hundred customers.
    stored = set(first.ids[: 100 * len(states)])
    assert stored | set(second.ids) == set(sandbox.customers)
    assert len(stored) + len(second.ids) == len(sandbox.customers)
    assert len(sandbox.urls) - asked == PAGES - len(stored) // 100 + 2


def test_a_scan_of_months_ago_is_resumed(sandbox: Sandbox) -> None:
    state = interrupted(sandbox).state
    ago = datetime.now(timezone.utc).replace(microsecond=0) - timedelta(days=100)
    open_scan(state)["started"] = ago.isoformat()

    assert len(sync(sandbox, state=state).ids) == 600


def test_twice_interrupted(sandbox: Sandbox) -> None:
    first = interrupted(sandbox, pages=2)
    # The run begins with the state that it was given, and the schema.
    second = sync(sandbox, state=first.state, kill_after=2 + 3 * 101 + 7)
    third = sync(sandbox, state=second.state)

    assert len(third.ids) == 500
    started = {open_scan(o.state)["started"] for o in (first, second)}
    assert len(started) == 1


def test_killed_before_its_first_page_a_resumed_scan_is_still_resumed(
    sandbox: Sandbox,
) -> None:
    first = interrupted(sandbox)
    second = sync(sandbox, state=first.state, kill_after=20)

    third = sync(sandbox, state=second.state)

    assert len(third.ids) == 600


def test_what_changed_between_the_runs_comes_with_the_run_after(
    sandbox: Sandbox,
) -> None:
    first = interrupted(sandbox)
    read = first.ids[0]
    sandbox.edit(read, address="Moved")

    second = sync(sandbox, state=first.state)
    third = sync(sandbox, state=second.state)

    assert read not in second.ids
    assert read in third.ids


OLD_CHECKPOINT = (
    *("cursor", "windows", "details", "edge", "started", "newest", "bookmark"),
    "asked",
)
STALE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a later bookmark": (
        lambda state: open_scan(state).update(bookmark=LONG_AGO),
        "it began at a later bookmark",
    ),
    "another list": (
        lambda state: open_scan(state).update(list_id="other"),
        "it read another list",
    ),
    "no cursor": (
        lambda state: open_scan(state)["position"].update(cursor=None),
        "it was on the first page",
    ),
    "an empty cursor": (
        lambda state: open_scan(state)["position"].update(cursor=""),
        "it was on the first page",
    ),
}
UNREADABLE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a start": lambda state: open_scan(state).update(started="then"),
    "a highest id": lambda state: open_scan(state).update(max_id="x"),
    "a mode": lambda state: open_scan(state).update(mode="backwards"),
    "the open scan": lambda state: saved(state).update(open_scan="here"),
    "the digest": lambda state: saved(state).update(list_id=7),
    "all": lambda state: stream_state(state).update(saved=[]),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_state_that_cannot_be_read_reads_everything(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    state = interrupted(sandbox).state
    UNREADABLE[name](state)
    sandbox.requests.clear()
    caplog.set_level(logging.INFO)

    output = sync(sandbox, state=state)

    assert sorted(output.ids) == sorted(sandbox.customers)
    assert ids(sandbox.urls)[0] == ""
    said = "The state has an unknown format: only its bookmark is used."
    assert said in caplog.messages
    assert not is_open(output)


@pytest.mark.parametrize("name", STALE)
def test_a_checkpoint_that_does_not_fit_is_not_taken_up(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    change, reason = STALE[name]
    state = interrupted(sandbox).state
    change(state)
    sandbox.requests.clear()
    caplog.set_level(logging.INFO)

    output = sync(sandbox, state=state)

    assert sorted(output.ids) == sorted(sandbox.customers)
    assert ids(sandbox.urls)[0] == ""
    not_resuming = "Not resuming the interrupted scan"
    assert infos(caplog) == [
        f"{not_resuming}: {reason}. Reading the list from its top."
    ]
    assert not is_open(output.state)


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("settings", [{}, {"start_date": "2024-06-01"}], ids=str)
def test_an_interrupted_full_refresh_is_owed(
    sandbox: Sandbox,
    settings: dict[str, Any],
    resumable: bool,  # noqa: FBT001
) -> None:
    """Meltano puts its open scan beside the bookmark of the runs before."""
    everyone = sync(sandbox, **settings)
    refresh = sync(sandbox, kill_after=1 + 4 * 101 + 50, **settings)
    merged = merge(everyone.state, refresh.state)
    assert "replication_key_value" in stream_state(merged)
    if not resumable:
        open_scan(merged)["position"] = {}

    after = sync(sandbox, state=merged, **settings)

    confirmed = refresh.ids[:400] if resumable else []
    assert set(confirmed) | set(after.ids) == set(everyone.ids)
    assert len(confirmed) + len(after.ids) == len(everyone.ids)
    assert not is_open(after.state)


def test_an_interrupted_full_refresh_with_other_filters_is_owed(
    sandbox: Sandbox,
) -> None:
    """Its target has lost what it had, whatever filters come next."""
    refresh = sync(sandbox, kill_after=150, filter_owner_ids=[1])
    merged = merge(sync(sandbox).state, refresh.state)

    after = sync(sandbox, state=merged)

    assert sorted(after.ids) == sorted(sandbox.customers)


def test_an_interrupted_full_refresh_of_one_page_is_owed(serve: Serve) -> None:
    sandbox = serve(50)
    refresh = sync(sandbox, kill_after=52)
    assert len(refresh.states) == 1
    merged = merge(sync(sandbox).state, refresh.state)

    after = sync(sandbox, state=merged)

    assert sorted(after.ids) == sorted(sandbox.customers)


def test_other_filters_after_an_interruption_say_so(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    everyone = sync(sandbox)
    interrupted_again = sync(
        sandbox, state=everyone.state, kill_after=6, start_date="2020-01-01"
    )
    caplog.set_level(logging.INFO)

    output = sync(sandbox, state=interrupted_again.state, filter_owner_ids=[1])

    owned = [r for r in sandbox.customers.values() if (r["owner"] or {}).get("id") == 1]
    assert len(output.ids) == len(owned)
    assert "it read another list" in infos(caplog)[0]


def test_a_token_that_was_revoked_does_not_start_a_scan_anew(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    state = interrupted(sandbox).state
    sandbox.requests.clear()
    sandbox.tokens.clear()

    with pytest.raises(FatalAPIError, match="Homele does not know the token"):
        sync(sandbox, state=state)

    assert len(sandbox.requests) == 1
    assert "Not resuming" not in caplog.text


def test_a_full_table_is_not_resumed_and_leaves_an_open_scan_alone(
    sandbox: Sandbox,
) -> None:
    first = interrupted(sandbox)
    full = catalog_of("FULL_TABLE")

    killed = sync(sandbox, state=first.state, catalog=full, kill_after=500)

    assert [saved(state) for state in killed.states] == [saved(first)]
    # The next incremental run goes on where the first one stopped.
    assert len(sync(sandbox, state=killed.state).ids) == 600
    # A full table that ends has sent all that the open scan has not.
    whole = sync(sandbox, state=first.state, catalog=full)
    assert sorted(whole.ids) == sorted(sandbox.customers)
    assert not is_open(whole)


def test_a_server_that_ignores_the_cursor_is_read_from_the_top(
    sandbox: Sandbox,
) -> None:
    """Laravel answers a cursor that it cannot read with the first page."""
    state = interrupted(sandbox).state
    open_scan(state)["position"]["cursor"] = "garbled"
    sandbox.requests.clear()

    output = sync(sandbox, state=state)

    assert sorted(output.ids) == sorted(sandbox.customers)
    # The answer was as good as the first page, and was not asked for again.
    assert ids(sandbox.urls)[0] == "garbled"
    assert len(sandbox.urls) == PAGES + 2


@pytest.mark.parametrize("is_outage", [True, False])
def test_a_resumed_scan_whose_cursor_fails_starts_anew(
    sandbox: Sandbox,
    caplog: pytest.LogCaptureFixture,
    waited: list[float],
    *,
    is_outage: bool,
) -> None:
    """On some versions of Laravel a cursor of a wrong shape gives 500.

    After an outage it goes on where it was.
    """
    state = interrupted(sandbox).state
    sandbox.requests.clear()
    caplog.set_level(logging.INFO)
    if is_outage:
        sandbox.fail(faults.refused(500, "Server Error"), times=8)
    else:
        open_scan(state)["position"]["cursor"] = "bnVsbA"
        sandbox.failing_cursors.add("bnVsbA")

    output = sync(sandbox, state=state)

    if is_outage:
        assert sum(waited) > 30
        assert len(output.ids) == 600
    else:
        assert waited == [1, 2, 1, 2]
        assert ids(sandbox.urls)[:7] == ["bnVsbA"] * 3 + [""] + ["bnVsbA"] * 3
        assert "its next page cannot be read" in infos(caplog)[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda page: page["meta"].update(next_cursor=None),
        lambda page: page.pop("meta"),
        lambda page: page.pop("data"),
        lambda page: page.update(data=[], meta=page["meta"] | {"has_more": False}),
    ],
    ids=["no cursor", "no meta", "no data", "an empty end"],
)
def test_a_resumed_scan_whose_page_is_malformed_starts_anew(
    sandbox: Sandbox,
    request: pytest.FixtureRequest,
    change: Callable[[dict[str, Any]], object],
) -> None:
    state = interrupted(sandbox).state
    sandbox.fail(
        faults.page(sandbox, change), times=1 + ("an empty end" in request.node.name)
    )

    output = sync(sandbox, state=state)

    assert set(output.ids) == set(sandbox.customers)
    # An empty end is asked for twice.
    assert "" in ids(sandbox.urls)[6:8]


def test_an_edit_between_the_runs_comes_also_if_the_page_looks_like_another(
    sandbox: Sandbox,
) -> None:
    """The list is sorted by parts of a second that the API does not write."""
    for number, customer_id in enumerate(sorted(sandbox.customers)):
        at = f"2026-02-20T10:00:00.{number:06}+00:00"
        sandbox.change(customer_id, last_activity_at=at)
    sandbox.render = lambda row: (
        row | {"last_activity_at": row["last_activity_at"][:19] + "+00:00"}
    )
    # Within the second, ids ascend.
    sandbox.key = lambda row: (row["last_activity_at"], -row["id"])
    first = interrupted(sandbox)
    read = first.ids[0]
    sandbox.edit(read, address="Moved")

    second = sync(sandbox, state=first.state)
    third = sync(sandbox, state=second.state)

    assert set(first.ids[:400]) | set(second.ids) == set(sandbox.customers)
    assert read in third.ids


def test_a_resumed_scan_that_fails_later_goes_on_from_there(
    sandbox: Sandbox, waited: list[float]
) -> None:
    state = interrupted(sandbox).state
    sandbox.fail(faults.refused(500, "Server Error"), at=3, times=math.inf)
    second = Output([])
    with pytest.raises(FatalAPIError):
        sync(sandbox, state=state, output=second)
    sandbox.faults.clear()

    third = sync(sandbox, state=second.state)

    assert waited
    assert len(third.ids) == 400


def test_start_date_does_not_move_the_bookmark(serve: Serve) -> None:
    """It is for the first run: customers between the two would never arrive."""
    sandbox = serve(300)
    bookmark = {"replication_key": "updated_at", "replication_key_value": "2025-06-01"}
    state = {"bookmarks": {"customers": bookmark}}

    with_it = sync(sandbox, state=state, start_date="2026-01-01")

    assert with_it.ids == sync(sandbox, state=state).ids
    assert len(with_it.ids) > 100


# Other filters, other scan.


@pytest.mark.parametrize(
    "settings",
    [{}, {"filter_owner_ids": [2]}, {"filter_created_from": "2025-01-01"}],
    ids=str,
)
def test_other_filters_read_everything(
    serve: Serve, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    sandbox = serve(300)
    first = sync(sandbox, filter_owner_ids=[1])
    caplog.clear()

    second = sync(sandbox, state=first.state, **settings)

    everything = sync(sandbox, **settings)
    assert sorted(second.ids) == sorted(everything.ids)
    assert len(second.ids) > len(first.ids) or settings == {"filter_owner_ids": [2]}
    assert (
        caplog.messages.count(
            "The token, the filters, the address or the streams are not those of the "
            "last run: reading all customers that match."
        )
        == 1
    )
    # And once is enough.
    third = sync(sandbox, state=second.state, **settings)
    assert len(third.ids) < 10


def test_the_same_filters_read_what_changed(serve: Serve) -> None:
    sandbox = serve(300)
    first = sync(sandbox, filter_owner_ids=[1], filter_query="")

    second = sync(sandbox, state=first.state, filter_owner_ids=[1])

    assert len(second.ids) < 10


def test_a_filter_does_not_stand_in_the_state(serve: Serve) -> None:
    output = sync(serve(300), filter_query="Sara")

    assert len(output.ids) > 0
    assert "Sara" not in json.dumps(output.states)


def test_a_bookmark_that_is_not_a_time_reads_everything(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(20)
    bookmark = {"replication_key": "updated_at", "replication_key_value": "soon"}

    output = sync(sandbox, state={"bookmarks": {"customers": bookmark}})

    assert len(output.ids) == 20
    assert "The bookmark is not a time: reading all customers." in caplog.messages


def test_a_state_of_version_0_1_0_keeps_its_bookmark(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = serve(300)
    filters = {
        "filter[query]": "a",
        "filter[lead_status.id][]": None,
        "filter[owner.id][]": [1],
        "filter[lead_source.id][]": None,
        "filter[priority.id]": None,
        "filter[date_from]": None,
        "filter[date_to]": None,
    }
    text = json.dumps([sandbox.api_url, filters], sort_keys=True)
    old = {
        "replication_key": "updated_at",
        "replication_key_value": "2026-02-01T00:00:00+00:00",
        "asked": hashlib.sha256(text.encode()).hexdigest()[:16],
        "scan_by": "cursor",
        "missing": [3, 4],
        "scan": [dict.fromkeys(OLD_CHECKPOINT)],
    }
    settings = {"filter_query": "a", "filter_owner_ids": [1]}

    output = sync(sandbox, state={"bookmarks": {"customers": old}}, **settings)

    since = {"start_date": "2026-02-01"} | settings
    assert output.ids == sync(sandbox, **since).ids
    assert infos(caplog) == []
    # Other filters are noticed in it, too.
    other = sync(sandbox, state={"bookmarks": {"customers": old}})
    assert len(other.ids) == 300


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(sandbox: Sandbox, tmp_path: Path, number: signal.Signals) -> None:
    """The target does not keep up, so the tap is in the middle of a line."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps(config_for(sandbox)))
    log = tmp_path / "log"
    with log.open("w") as errors:
        tap = subprocess.Popen(
            [sys.executable, "-m", "tap_homele", "--config", config],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=clean_environment(),
        )
    with tap:
        assert tap.stdout
        lines = [tap.stdout.readline() for _ in range(2 * 101 + 50)]
        tap.send_signal(number)
        tap.send_signal(number)  # twice is as good as once
        lines += tap.stdout.readlines()

    assert tap.returncode == 128 + number
    assert f"Stopped by {number.name}." in log.read_text()
    assert "Traceback" not in log.read_text()
    # Every line is whole, and the last state is that of the last whole page.
    output = parse("".join(lines))
    pages = len(output.states)
    assert pages >= 2
    again = run(tmp_path, sandbox, state=output.state)
    assert again.returncode == 0
    confirmed = output.ids[: pages * 100]
    assert len(parse(again.stdout).ids) == PAGES * 100 - len(confirmed)
    assert set(confirmed) | set(parse(again.stdout).ids) == set(sandbox.customers)

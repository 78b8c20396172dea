"""The details of each customer that changed: all of them, and none asked for twice."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import random
import threading
import time
from collections import Counter
from queue import Queue
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psycopg
import pytest
import requests
from singer_sdk.exceptions import FatalAPIError, RetriableAPIError

from tap_homele import details, streams
from tap_homele.scanned import DETAILS_PER_STATE
from tap_homele.streams import CustomerDetailsStream
from tap_homele.tap import TapHomele
from tests.readme import block
from tests.sandbox import Sandbox, faults
from tests.sandbox.customers import details_of
from tests.singer import Output, catalog_of, sync
from tests.test_postgres import as_lines, load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve
    from tests.sandbox.server import LoggedRequest

DETAILS = "customer_details"


def read(sandbox: Sandbox, **options: Any) -> Output:
    return sync(sandbox, customer_details=True, **options)


def asked(sandbox: Sandbox) -> list[int]:
    """Give the ids whose details were asked for."""
    urls = [url for url in sandbox.urls if url.startswith("/customers/")]
    return [int(url.rpartition("/")[2]) for url in urls]


def ids(output: Output) -> list[int]:
    return [record["id"] for record in output.records_of(DETAILS)]


def logged(caplog: pytest.LogCaptureFixture, level: str = "INFO") -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == level and record.name.startswith("tap-homele.")
    ]


# Which, and what.


def test_the_stream_is_there_only_if_it_is_asked_for() -> None:
    def names(**settings: Any) -> list[str]:
        tap = TapHomele(config=settings, validate_config=False)
        return [entry["tap_stream_id"] for entry in tap.catalog_dict["streams"]]

    assert names() == ["customers"]
    assert names(customer_details=False) == ["customers"]
    assert names(customer_details=True) == [DETAILS, "customers"]


def test_details_that_are_new_are_those_of_all_customers(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(150)
    without = sync(sandbox)
    assert len(without.records) == 150

    first = read(sandbox, state=without.state)

    assert set(ids(first)) == set(sandbox.customers)
    (warning,) = logged(caplog, "WARNING")
    assert "the streams are not those of the last run" in warning
    assert len(ids(read(sandbox, state=first.state))) == 1

    # The same where the scan without them was interrupted.
    killed = sync(sandbox, kill_after=120)
    assert set(ids(read(sandbox, state=killed.state))) == set(sandbox.customers)


def test_fields_that_the_vendor_announces_are_no_warning(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = serve(3)
    for row in sandbox.customers.values():
        row["phone1"] = {"number": "0750"}

    read(sandbox)

    (details, listed) = (line for line in logged(caplog, "WARNING") if "fit" in line)
    assert details.startswith("'phone1' does not fit a column")
    assert listed.startswith("'phone1' does not fit a column")
    assert any("'lead_status_history' has no" in line for line in logged(caplog))


def test_the_columns_are_those_of_the_list_and_occupation() -> None:
    columns = list(CustomerDetailsStream.schema["properties"])
    listed = list(streams.CustomersStream.schema["properties"])

    assert columns == [*listed[:-1], "occupation", "additional_properties"]
    assert CustomerDetailsStream.schema["required"] == ["id"]


@pytest.mark.parametrize("scan_by", ["cursor", "created_date", "auto"])
def test_every_customer_that_the_list_sends_on_and_no_other(
    serve: Serve, scan_by: str
) -> None:
    sandbox = serve(450)

    first = read(sandbox, scan_by=scan_by)

    assert sorted(ids(first)) == sorted(sandbox.customers)
    assert Counter(asked(sandbox)) == Counter(list(sandbox.customers))
    first.validate()
    for record in first.records_of(DETAILS):
        row = sandbox.customers[record["id"]]
        details = details_of(row)
        assert record == row | {
            "occupation": details.pop("occupation"),
            "additional_properties": details,
        }
    state = first.state["bookmarks"]
    assert state[DETAILS] == {}
    assert state["customers"]["scan"] == []

    sandbox.requests.clear()
    edited = sorted(sandbox.customers)[100:103]
    for customer_id in edited:
        sandbox.edit(customer_id, lead_status={"id": 5, "name": "Won"})
    second = read(sandbox, scan_by=scan_by, state=first.state)

    listed = {record["id"] for record in second.records_of("customers")}
    assert set(edited) <= set(asked(sandbox)) == set(ids(second)) == listed


def test_where_the_cursor_hides_customers_their_details_come_too(serve: Serve) -> None:
    sandbox = serve(450, drops_nulls=True)

    output = read(sandbox, scan_by="auto")

    assert Counter(ids(output)) == Counter(list(sandbox.customers))


def test_only_the_details(serve: Serve) -> None:
    sandbox = serve(150)
    catalog = catalog_of(customer_details=True)
    catalog["customers"].metadata.root.selected = False

    first = read(sandbox, catalog=catalog)
    second = read(sandbox, catalog=catalog, state=first.state)

    assert first.records_of("customers") == []
    assert sorted(ids(first)) == sorted(sandbox.customers)
    assert len(ids(second)) == 1


def test_only_the_list(serve: Serve) -> None:
    sandbox = serve(150)
    catalog = catalog_of(customer_details=True)
    catalog[DETAILS].metadata.root.selected = False

    output = read(sandbox, catalog=catalog)

    assert output.records_of(DETAILS) == []
    assert asked(sandbox) == []
    assert len(output.records_of("customers")) == 150


def test_whom_a_stream_map_filters_out_costs_no_request(serve: Serve) -> None:
    sandbox = serve(150)

    read(
        sandbox,
        stream_maps={"customers": {"__filter__": "owner is not None"}},
    )

    owned = [row["id"] for row in sandbox.customers.values() if row["owner"]]
    assert sorted(asked(sandbox)) == sorted(owned)


@pytest.mark.parametrize(
    "stream_maps",
    [
        {"customers": "__NULL__"},
        {"customer_details": {"phone1": None}, "__else__": "__NULL__"},
    ],
)
def test_where_a_stream_map_takes_the_list_away_all_details_come(
    serve: Serve, stream_maps: Any
) -> None:
    sandbox = serve(150)

    output = read(sandbox, stream_maps=stream_maps)

    assert output.records_of("customers") == []
    assert sorted(ids(output)) == sorted(sandbox.customers)


def test_a_list_that_is_selected_later_has_all_customers(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(150)
    catalog = catalog_of(customer_details=True)
    catalog["customers"].metadata.root.selected = False
    first = read(sandbox, catalog=catalog)

    second = read(sandbox, state=first.state)

    assert len(second.records_of("customers")) == 150
    assert "the streams are not those of the last run" in logged(caplog, "WARNING")[0]


# What it costs.


@pytest.mark.parametrize(
    ("scan_by", "page_size", "case"),
    [
        ("cursor", 100, "quiet"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("auto", 20, "quiet"),
                ("created_date", 100, "quiet"),
                ("cursor", 100, "all active just now"),
                ("created_date", 100, "an import of one day"),
                ("created_date", 100, "ids far apart"),
            )
        ),
    ],
)
def test_the_messages_are_little_more_than_the_records(
    serve: Serve, scan_by: str, page_size: int, case: str
) -> None:
    sandbox = serve(2000)
    if case == "all active just now":
        for customer_id in sandbox.customers:
            sandbox.edit(customer_id, last_activity_at=sandbox.now())
    elif case == "an import of one day":
        one_day(sandbox, 1500)
    elif case == "ids far apart":
        dice = random.Random(1)
        rows = list(sandbox.customers.values())
        sandbox.customers.clear()
        for row, number in zip(
            rows, sorted(dice.sample(range(10**8), 2000)), strict=True
        ):
            sandbox.customers[number] = row | {"id": number}
    catalog = catalog_of(customer_details=True)
    catalog["customers"].metadata.root.selected = False

    output = read(sandbox, catalog=catalog, scan_by=scan_by, page_size=page_size)

    size = sum(len(json.dumps(message)) for message in output.messages)
    records = sum(len(json.dumps(message)) for message in output.of("RECORD"))
    assert len(output.records) == 2000
    assert size < 1.2 * records
    assert len(output.of("SCHEMA")) <= 20


@pytest.mark.parametrize("latency", ["short", "long"])
def test_one_429_makes_one_wait(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    latency: str,
) -> None:
    """The list and the details share 60 requests a minute."""
    caplog.set_level(logging.INFO)
    clock = [float(int(time.time()))]
    lock = threading.Lock()
    sandbox = serve(130, rate_limit=60, clock=lambda: clock[0])

    def sleep(seconds: float) -> None:
        # All that wait for the same moment wake at the same moment.
        with lock:
            clock[0] = max(clock[0], sandbox.window_ends) if seconds > 1 else clock[0]

    paused = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
    monkeypatch.setattr("backoff._sync.time", paused)
    ours = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr("tap_homele.client.time", ours)
    if latency == "long":
        monkeypatch.setattr(details, "QUICK", 1e-6)

    output = read(sandbox)

    assert sorted(ids(output)) == sorted(sandbox.customers)
    # 2 pages, one that closes, 130 details: two windows are used up.
    assert len(sandbox.requests) - len(rejected(sandbox)) == 133
    waits = [line for line in logged(caplog) if "rate limit" in line]
    if latency == "short":
        assert len(waits) == 2
    else:
        # Each connection can meet the limit.
        assert 2 <= len(waits) <= len(rejected(sandbox))
    sent = 133 + len(rejected(sandbox))
    assert f"{sent} requests" in logged(caplog)[-1]
    assert f", {len(waits)} waits" in logged(caplog)[-1]


def test_connections_that_meet_the_same_limit_wait_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tap = TapHomele(config={"auth_token": "1|abc", "customer_details": True})
    stream = cast("CustomerDetailsStream", tap.streams[DETAILS])
    clock = [1000.0]
    monkeypatch.setattr(
        "tap_homele.client.time", SimpleNamespace(monotonic=lambda: clock[0])
    )
    response = requests.Response()
    response.status_code = 429
    error = RetriableAPIError("429", response)

    done = threading.Event()
    threads: list[threading.Thread] = []
    met: Queue[None] = Queue()

    def meet(wait: float) -> None:
        stream.backoff_handler({"exception": error, "wait": wait})  # type: ignore[typeddict-item]
        met.put(None)
        done.wait()

    for later, wait in ((0, 30), (1, 29), (2, 27), (60, 30), (0, 30)):
        clock[0] += later
        threads.append(threading.Thread(target=meet, args=[wait]))
        threads[-1].start()
        met.get()
    done.set()
    for thread in threads:
        thread.join()

    assert (stream.waits, stream.seconds_waited) == (2, 60)
    limit = "The API's rate limit is reached: waiting 30 s."
    assert logged(caplog) == [limit, limit]


def rejected(sandbox: Sandbox) -> list[LoggedRequest]:
    return [request for request in sandbox.requests if request.status == 429]


def test_the_log_says_how_many_and_how_long(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = serve(150)
    caplog.set_level(logging.INFO)
    clock = [0.0]
    monkeypatch.setattr(details, "monotonic", lambda: clock[0])
    sandbox.meanwhile = lambda: clock.__setitem__(0, clock[0] + 3600)

    def meanwhile() -> None:
        clock[0] += 1 if len(asked(sandbox)) <= 60 else 2

    sandbox.meanwhile_detail = meanwhile

    read(sandbox)

    lines = [line for line in logged(caplog) if line.startswith(("Asking", "Details"))]
    asking = "Asking for the details of {} customers, one request each."
    far = (
        "Details so far: {}, {} a minute now. Left of those that the list has shown: "
        "{}, {} minutes. How many follow, Homele does not say."
    )
    assert lines == [
        asking.format(100),
        far.format(60, 60, 40, 0.7),
        far.format(90, 30, 10, 0.3),
        asking.format(50),
        # The hour that the list took meanwhile does not count.
        far.format(120, 30, 30, 1.0),
        far.format(150, 30, 0, 0.0),
        "Details sent: 150. Customers without details: 0.",
    ]


@pytest.mark.parametrize("latency", ["short", "long", "changing"])
def test_slow_answers_are_waited_for_on_a_few_connections(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, latency: str
) -> None:
    sandbox = serve(150)
    if latency == "long":
        monkeypatch.setattr(details, "QUICK", 1e-6)
    elif latency == "changing":
        monkeypatch.setattr(details, "QUICK", 0.01)
    under_way: list[int] = []
    most = []

    def meanwhile() -> None:
        under_way.append(1)
        most.append(len(under_way))
        if latency == "long" or (latency == "changing" and len(most) % 20 < 5):
            sandbox.stopped.wait(0.02)
        under_way.pop()

    sandbox.meanwhile_detail = meanwhile

    output = read(sandbox)

    listed = [record["id"] for record in output.records_of("customers")]
    assert ids(output) == listed
    assert (max(most) == 1) is (latency == "short")
    assert max(most) <= details.MOST_CONNECTIONS


# What can go wrong.


def test_whoever_was_deleted_meanwhile_is_passed_over(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = serve(150)
    gone = sorted(sandbox.customers)[40:80:5]
    for customer_id in gone:
        sandbox.detail_faults[customer_id] = faults.refused(404, "Not Found.")

    output = read(sandbox)

    assert set(ids(output)) == set(sandbox.customers) - set(gone)
    assert "Details sent: 142. Customers without details: 8." in logged(caplog)
    assert output.state["bookmarks"]["customers"]["scan"] == []


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            faults.refused(403, "Insufficient permissions."),
            (
                "The token may read the list of customers, but not their details (403, "
                "'Insufficient permissions.'). Give it the permission customer:read"
            ),
        ),
        (faults.html(404), "There is no Homele API at this address (404, GET"),
        (faults.refused(401, "Unauthenticated."), "Homele does not know the token"),
        (
            faults.body('{"success": true, "data": []}'),
            "What Homele answered for customer {} is not an object",
        ),
        (
            faults.body('{"success": true, "data": {"id": 1}}'),
            "Homele was asked for customer {}, and answered with customer 1.",
        ),
        (
            faults.body('{"success": true, "data": {"name": "Sara"}}'),
            "What Homele answered for customer {} has no integer 'id'",
        ),
        (faults.refused(500, "Server Error"), "GET /api/v2/crm/customers/{} was"),
    ],
)
@pytest.mark.usefixtures("waited")
def test_an_answer_that_is_none_is_an_error_and_nothing_is_lost(
    serve: Serve, answer: Any, sentence: str
) -> None:
    sandbox = serve(150)
    faulty = sorted(sandbox.customers)[70]
    sandbox.detail_faults[faulty] = answer
    output = Output([])

    with pytest.raises(FatalAPIError) as error:
        read(sandbox, output=output)

    assert str(error.value).startswith(sentence.format(faulty))
    sandbox.detail_faults.clear()
    again = read(sandbox, state=output.state)
    assert set(ids(output)) | set(ids(again)) == set(sandbox.customers)
    assert len(ids(output)) + len(ids(again)) <= 150 + DETAILS_PER_STATE


def not_found(sandbox: Sandbox, customer_ids: list[int]) -> None:
    for customer_id in customer_ids:
        sandbox.detail_faults[customer_id] = faults.refused(404, "Not Found.")


def test_no_details_at_all_is_an_error(serve: Serve) -> None:
    sandbox = serve(350)
    not_found(sandbox, [*sandbox.customers])
    state = None
    for _ in range(3):
        output = Output([])
        with pytest.raises(FatalAPIError, match="no details of any of the first 20"):
            read(sandbox, state=state, output=output)
        state = output.state

    # The first that goes on reads the rest of the list, and the next the whole of it.
    sandbox.detail_faults.clear()
    first = read(sandbox, state=state)
    second = read(sandbox, state=first.state)
    assert set(ids(first)) | set(ids(second)) == set(sandbox.customers)


@pytest.mark.parametrize(
    ("scan_by", "killed"), [("cursor", True), ("auto", False), ("created_date", True)]
)
def test_who_has_no_details_and_is_in_the_list_is_asked_for_by_the_next_run(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    scan_by: str,
    killed: bool,  # noqa: FBT001
) -> None:
    sandbox = serve(350)
    listed = [record["id"] for record in sync(sandbox).records]
    without = listed[0:1] + listed[150:300]
    not_found(sandbox, without)
    deleted = listed[160]

    first = read(sandbox, scan_by=scan_by)

    assert sorted(ids(first)) == sorted(set(listed) - set(without))
    assert "Homele has no details of 151 customers" in logged(caplog, "WARNING")[-1]
    assert first.state["bookmarks"]["customers"]["scan"] == []
    sandbox.delete(deleted)
    second = read(sandbox, scan_by=scan_by, state=first.state)
    assert set(ids(second)) <= {listed[0]}
    missing = second.state["bookmarks"]["customers"]["missing"]
    assert set(missing) == set(without) - {deleted}
    sandbox.detail_faults.clear()
    if killed:
        second = read(sandbox, scan_by=scan_by, state=second.state, kill_after=120)
    sandbox.requests.clear()

    third = read(sandbox, scan_by=scan_by, state=second.state)

    assert set(ids(third)) | set(ids(second)) >= set(without) - {deleted}
    assert deleted not in asked(sandbox)
    last = read(sandbox, scan_by=scan_by, state=third.state)
    assert last.state["bookmarks"]["customers"]["missing"] == []
    assert len(ids(last)) <= 1


def test_where_details_are_missing_none_are_marked_as_deleted(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(150)
    not_found(sandbox, sorted(sandbox.customers)[:3])

    output = read(
        sandbox,
        catalog=catalog_of("FULL_TABLE", customer_details=True),
        emit_activate_version_messages=True,
    )

    assert [m["stream"] for m in output.of("ACTIVATE_VERSION")] == ["customers"]
    assert "So no details are marked as deleted" in logged(caplog, "WARNING")[-1]


def test_those_of_an_earlier_run_can_all_be_deleted(serve: Serve) -> None:
    sandbox = serve(90)
    killed = read(sandbox, kill_after=90 + 3 + 75)
    for customer_id in list(sandbox.customers):
        sandbox.delete(customer_id)

    again = read(sandbox, state=killed.state)

    assert again.records == []
    assert again.state["bookmarks"]["customers"]["scan"] == []


# Between runs.


@pytest.mark.parametrize("scan_by", ["cursor", "created_date"])
def test_after_a_kill_what_was_not_confirmed_is_asked_for_and_nothing_else(
    serve: Serve, scan_by: str
) -> None:
    sandbox = serve(250)
    whole = read(sandbox, scan_by=scan_by)
    for kill_after in range(5, len(whole.messages), 167):
        sandbox.requests.clear()
        killed = read(sandbox, scan_by=scan_by, kill_after=kill_after)
        stored = [
            at
            for at, message in enumerate(killed.messages)
            if message["type"] == "STATE"
        ]
        confirmed = Output(killed.messages[: stored[-1] + 1 if stored else 0])
        before = asked(sandbox)
        sandbox.requests.clear()

        again = read(sandbox, scan_by=scan_by, state=killed.state if stored else None)

        assert set(ids(confirmed)) | set(ids(again)) == set(sandbox.customers)
        assert set(asked(sandbox)).isdisjoint(ids(confirmed)), kill_after
        assert len(set(asked(sandbox)) & set(before)) <= DETAILS_PER_STATE


def open_batch(uri: str) -> TextIO:
    return cast("TextIO", gzip.open(url2pathname(urlsplit(uri).path), "rt"))


def one_day(sandbox: Sandbox, count: int) -> None:
    """Put so many customers on one day, which no page of a window holds."""
    rows = list(sandbox.customers.values())
    for row in rows[:count]:
        row["created_at"] = rows[0]["created_at"]


@pytest.mark.parametrize(("killed_at", "inclusive"), [(120, True), (260, False)])
def test_a_kill_in_a_day_that_is_read_by_the_cursor_loses_nothing(
    serve: Serve, killed_at: int, *, inclusive: bool
) -> None:
    sandbox = serve(450, includes_from=inclusive, includes_to=inclusive)
    one_day(sandbox, 250)
    whole = read(sandbox, scan_by="created_date")
    at = [
        at
        for at, message in enumerate(whole.messages)
        if message["type"] == "RECORD" and message["stream"] == DETAILS
    ][killed_at]
    sandbox.requests.clear()
    killed = read(sandbox, scan_by="created_date", kill_after=at)
    stored = max(n for n, m in enumerate(killed.messages) if m["type"] == "STATE")
    confirmed = Output(killed.messages[: stored + 1])
    sandbox.requests.clear()

    again = read(sandbox, scan_by="created_date", state=killed.state)

    both = {r["id"] for r in (*confirmed.records, *again.records)}
    assert both == set(sandbox.customers)
    assert set(ids(confirmed)) | set(ids(again)) == set(sandbox.customers)
    assert len(set(asked(sandbox)) & set(ids(confirmed))) <= DETAILS_PER_STATE


def test_two_kills_on_the_last_page(serve: Serve) -> None:
    sandbox = serve(250)
    whole = read(sandbox)
    first = read(sandbox, kill_after=len(whole.messages) - 2)
    second = read(sandbox, state=first.state, kill_after=54)
    sandbox.requests.clear()

    third = read(sandbox, state=second.state)

    assert len(asked(sandbox)) <= DETAILS_PER_STATE
    sent = {record["id"] for record in (*first.records, *third.records)}
    assert sent == set(sandbox.customers)


def test_whoever_was_active_just_now_is_not_asked_for_twice(serve: Serve) -> None:
    sandbox = serve(350)
    for customer_id in sorted(sandbox.customers)[:150]:
        sandbox.edit(customer_id, last_activity_at=sandbox.now())
    killed = read(sandbox, kill_after=1 + 2 * 110 + 150 + 60)
    confirmed = set(ids(killed))
    sandbox.requests.clear()

    again = read(sandbox, state=killed.state)

    assert confirmed | set(ids(again)) == set(sandbox.customers)
    assert len(confirmed & set(asked(sandbox))) <= DETAILS_PER_STATE


def test_an_error_of_one_detail_is_none_of_the_list(
    serve: Serve, waited: list[float]
) -> None:
    """Neither is the scan begun anew for it, nor is the cursor left."""
    sandbox = serve(250)
    listed = [r["id"] for r in sync(sandbox).records]
    sandbox.detail_faults[listed[130]] = faults.refused(500, "Server Error")
    state = None
    for run in range(3):
        sandbox.requests.clear()
        output = Output([])
        with pytest.raises(FatalAPIError, match="500"):
            read(sandbox, state=state, output=output, scan_by="auto")
        state = output.state
        tried = Counter(asked(sandbox))
        assert tried.pop(listed[130]) == 8
        assert sum(tried.values()) <= (130 if run == 0 else 31)
        assert state["bookmarks"]["customers"]["scan_by"] is None
    assert waited
    sandbox.detail_faults.clear()

    last = read(sandbox, state=state, scan_by="auto")

    assert last.state["bookmarks"]["customers"]["scan"] == []


def test_a_scan_that_goes_on_from_its_first_page_keeps_its_bookmark(
    serve: Serve,
) -> None:
    """What was being saved when the details were read is looked at again."""
    now = [time.time() - 7200]
    sandbox = serve(50, clock=lambda: now[0])
    sandbox.edit(min(sandbox.customers))
    killed = read(sandbox, kill_after=50 + 3 + 45)
    started = killed.state["bookmarks"]["customers"]["scan"][0]["started"]
    now[0] += 3600
    sandbox.edit(max(sandbox.customers))

    again = read(sandbox, state=killed.state)

    bookmark = again.state["bookmarks"]["customers"]["replication_key_value"]
    assert bookmark < started
    assert set(ids(killed)) | set(ids(again)) == set(sandbox.customers)


def test_an_error_with_batches_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    sandbox = serve(450)
    listed = [r["id"] for r in sync(sandbox).records]
    sandbox.detail_faults[listed[330]] = faults.refused(403, "No.")
    config = {
        "encoding": {"format": "jsonl", "compression": "gzip"},
        "storage": {"root": tmp_path.as_uri()},
    }
    first = Output([])
    with pytest.raises(FatalAPIError, match="403"):
        read(sandbox, output=first, batch_config=config)
    sandbox.detail_faults.clear()

    second = read(sandbox, state=first.state, batch_config=config)

    found = set()
    for message in (*first.of("BATCH"), *second.of("BATCH")):
        if message["stream"] == "customers":
            for uri in message["manifest"]:
                with open_batch(uri) as lines:
                    found |= {json.loads(line)["id"] for line in lines}
    assert found == set(sandbox.customers)


@pytest.mark.parametrize("selected", [True, False])
def test_whoever_changed_meanwhile_is_asked_for_again(
    serve: Serve,
    selected: bool,  # noqa: FBT001
) -> None:
    """Also where the column that tells of the change is not selected."""
    now = [time.time() - 7200]
    sandbox = serve(80, clock=lambda: now[0])
    catalog = catalog_of(customer_details=True)
    for name in () if selected else ("updated_at", "address"):
        catalog["customers"].metadata[("properties", name)].selected = False
    killed = read(sandbox, catalog=catalog, kill_after=80 + 3 + 70)
    before = asked(sandbox)
    sent = ids(killed)[:DETAILS_PER_STATE]
    now[0] += 60
    sandbox.edit(sent[3], address="Gulan Street 7")
    sandbox.requests.clear()

    again = read(sandbox, catalog=catalog, state=killed.state)

    assert len(before) == 70
    assert set(asked(sandbox)) == set(sandbox.customers) - set(sent) | {sent[3]}
    addresses = {r["id"]: r["address"] for r in again.records_of(DETAILS)}
    assert addresses[sent[3]] == "Gulan Street 7"


def test_whoever_changes_while_the_list_is_read_is_asked_for_again(
    serve: Serve,
) -> None:
    now = [time.time() - 7200]
    sandbox = serve(250, clock=lambda: now[0])
    rows = sandbox.customers.values()
    newest = max(rows, key=lambda row: row["last_activity_at"] or "")

    def meanwhile() -> None:
        now[0] += 60
        if len(asked(sandbox)) == 200 and len(sandbox.requests) == 203:
            sandbox.edit(
                newest["id"], address="60m Street", last_activity_at=sandbox.now()
            )

    sandbox.meanwhile = meanwhile

    output = read(sandbox)

    assert Counter(asked(sandbox)) == Counter([*sandbox.customers, newest["id"]])
    last = output.records_of(DETAILS)[-1]
    assert (last["id"], last["address"]) == (newest["id"], "60m Street")


@pytest.mark.parametrize("killed_in", ["the windows", "the list"])
def test_after_a_kill_and_another_way_nobody_is_asked_for_again(
    serve: Serve, killed_in: str
) -> None:
    sandbox = serve(700, drops_nulls=True)
    whole = read(sandbox, scan_by="auto")
    assert whole.state["bookmarks"]["customers"]["scan_by"] == "created_date"
    at = len(whole.messages) * (98 if killed_in == "the windows" else 30) // 100
    sandbox.requests.clear()
    killed = read(sandbox, scan_by="auto", kill_after=at)
    (checkpoint,) = killed.state["bookmarks"]["customers"]["scan"]
    assert (checkpoint["windows"] is None) == (killed_in == "the list")
    stored = max(n for n, m in enumerate(killed.messages) if m["type"] == "STATE")
    confirmed = ids(Output(killed.messages[: stored + 1]))
    sandbox.requests.clear()

    again = read(sandbox, scan_by="auto", state=killed.state)

    assert set(confirmed) | set(ids(again)) >= {
        row["id"] for row in sandbox.customers.values() if row["last_activity_at"]
    }
    assert not set(confirmed) & set(asked(sandbox))
    assert len(asked(sandbox)) == len(set(asked(sandbox)))


@pytest.mark.parametrize("scan_by", ["cursor", "auto"])
@pytest.mark.usefixtures("waited")
def test_after_a_kill_and_a_page_that_fails_nobody_is_asked_for_again(
    serve: Serve, scan_by: str
) -> None:
    sandbox = serve(400, fails_on_null=True)
    for row in list(sandbox.customers.values())[:150]:
        row["last_activity_at"] = None
    killed = read(sandbox, scan_by=scan_by, kill_after=500)
    state, sent = killed.state, set(ids(killed))
    stored = max(n for n, m in enumerate(killed.messages) if m["type"] == "STATE")
    confirmed = set(ids(Output(killed.messages[: stored + 1])))
    for _ in range(2):
        sandbox.requests.clear()
        output = Output([])
        # By the cursor each run ends with an error.
        with contextlib.suppress(FatalAPIError):
            read(sandbox, scan_by=scan_by, state=state, output=output)
        assert not confirmed & set(asked(sandbox)) - {listed_last(output)}
        state = output.state
        confirmed |= set(ids(output))
        sent |= set(ids(output))

    assert (scan_by == "cursor") == bool(set(sandbox.customers) - sent)


def listed_last(output: Output) -> int | None:
    """Give the customer at the bookmark, who always comes again."""
    listed = output.records_of("customers")
    return max(listed, key=lambda r: r["updated_at"])["id"] if listed else None


@pytest.mark.parametrize("scan_by", ["cursor", "created_date"])
@pytest.mark.parametrize("last_activity_at", ["today", "planned"])
def test_days_and_plans_are_no_changes(
    serve: Serve, scan_by: str, last_activity_at: str
) -> None:
    """A list that holds days, and activities that are yet to come."""
    sandbox = serve(250)
    for row in sandbox.customers.values():
        at = sandbox.now() if last_activity_at == "today" else "2090-01-01T00:00:00Z"
        row |= {"last_activity_at": at, "updated_at": "2026-01-01T00:00:00+00:00"}
    if last_activity_at == "today":
        sandbox.render = lambda row: (
            row | {"last_activity_at": row["last_activity_at"][:10]}
        )

    output = read(sandbox, scan_by=scan_by)

    assert Counter(asked(sandbox)) == Counter(list(sandbox.customers))
    assert sorted(ids(output)) == sorted(sandbox.customers)


@pytest.mark.usefixtures("waited")
def test_a_day_that_cannot_be_had_costs_the_details_of_nobody(serve: Serve) -> None:
    sandbox = serve(450, fails_on_null=True)
    one_day(sandbox, 250)
    for row in list(sandbox.customers.values())[100:250]:
        row["last_activity_at"] = None
    first = Output([])
    with pytest.raises(FatalAPIError, match="All others were read"):
        read(sandbox, scan_by="created_date", output=first)
    listed = {record["id"] for record in first.records_of("customers")}
    assert set(ids(first)) == listed < set(sandbox.customers)
    sandbox.requests.clear()

    second = Output([])
    with pytest.raises(FatalAPIError, match="All others were read"):
        read(sandbox, scan_by="created_date", output=second, state=first.state)
    assert asked(sandbox) == []

    sandbox.fails_on_null = False
    last = read(sandbox, scan_by="created_date", state=second.state)
    assert set(ids(first)) | set(ids(last)) == set(sandbox.customers)
    assert len(asked(sandbox)) == len(sandbox.customers) - len(listed)


@pytest.mark.parametrize("scan_by", ["cursor", "created_date"])
def test_a_run_with_nothing_left_to_read_has_a_bookmark(
    serve: Serve, scan_by: str
) -> None:
    sandbox = serve(250)
    whole = read(sandbox, scan_by=scan_by)
    killed = read(sandbox, scan_by=scan_by, kill_after=len(whole.messages) - 1)

    again = read(sandbox, scan_by=scan_by, state=killed.state)

    bookmark = whole.state["bookmarks"]["customers"]["replication_key_value"]
    assert again.state["bookmarks"]["customers"]["replication_key_value"] == bookmark


def test_whoever_changed_after_a_kill_is_asked_for_again_in_the_head(
    serve: Serve,
) -> None:
    now = [time.time() - 7200]
    sandbox = serve(250, clock=lambda: now[0])
    listed = [record["id"] for record in sync(sandbox).records]
    sandbox.requests.clear()
    killed = read(sandbox, kill_after=380)
    assert listed[3] in asked(sandbox)
    now[0] += 60
    sandbox.edit(listed[3], address="60m Street", last_activity_at=sandbox.now())
    now[0] += 60

    again = read(sandbox, state=killed.state)

    addresses = {r["id"]: r["address"] for r in again.records_of(DETAILS)}
    assert addresses[listed[3]] == "60m Street"


def test_details_of_the_head_do_not_take_the_list_back(serve: Serve) -> None:
    now = [time.time() - 7200]
    sandbox = serve(450, clock=lambda: now[0])
    first = read(sandbox)
    now[0] += 3600
    listed = [record["id"] for record in sync(sandbox).records]
    sandbox.edit(listed[-1])
    sandbox.requests.clear()
    sandbox.meanwhile = lambda: (
        sandbox.edit(listed[-2], last_activity_at=sandbox.now())
        if len(sandbox.requests) == 3
        else None
    )

    output = read(sandbox, state=first.state)

    assert {listed[-1], listed[-2]} <= set(asked(sandbox))
    checkpoints = [
        state["bookmarks"]["customers"]["scan"][0]
        for state in output.states
        if state["bookmarks"]["customers"]["scan"]
    ]
    # That of the last page, from which a later run would go on.
    assert checkpoints[-1]["cursor"] == checkpoints[-2]["cursor"]
    assert checkpoints[-1]["cursor"] in sandbox.requests[4].url


def test_another_list_is_asked_for_from_the_beginning(serve: Serve) -> None:
    sandbox = serve(50)
    killed = read(sandbox, kill_after=50 + 2 + 45)
    sandbox.requests.clear()

    read(sandbox, state=killed.state, filter_owner_ids=[1])

    owned = [
        row["id"]
        for row in sandbox.customers.values()
        if row["owner"] and row["owner"]["id"] == 1
    ]
    assert sorted(asked(sandbox)) == sorted(owned)


def test_deleted_customers_go_from_both_tables(serve: Serve) -> None:
    sandbox = serve(150)

    output = read(
        sandbox,
        catalog=catalog_of("FULL_TABLE", customer_details=True),
        emit_activate_version_messages=True,
    )

    messages = output.of("ACTIVATE_VERSION")
    assert [message["stream"] for message in messages] == ["customers", DETAILS]
    assert {message["version"] for message in messages} == {
        message["version"] for message in output.of("RECORD")
    }
    last = max(at for at, m in enumerate(output.messages) if m["type"] == "RECORD")
    assert output.messages.index(messages[0]) > last


def test_deleted_details_go_where_only_they_are_selected(serve: Serve) -> None:
    catalog = catalog_of("FULL_TABLE", customer_details=True)
    catalog["customers"].metadata.root.selected = False

    output = read(serve(150), catalog=catalog, emit_activate_version_messages=True)

    assert [m["stream"] for m in output.of("ACTIVATE_VERSION")] == [DETAILS]


def test_when_all_are_deleted_both_tables_are_emptied(serve: Serve) -> None:
    output = read(
        serve(0),
        catalog=catalog_of("FULL_TABLE", customer_details=True),
        emit_activate_version_messages=True,
    )

    messages = output.of("ACTIVATE_VERSION")
    assert [message["stream"] for message in messages] == ["customers", DETAILS]


def test_an_incremental_run_deletes_no_details(serve: Serve) -> None:
    sandbox = serve(150)

    output = read(sandbox, emit_activate_version_messages=True)

    assert output.of("ACTIVATE_VERSION") == []


# The history, as the README turns it into rows.


def test_the_history_becomes_rows(
    serve: Serve, tmp_path: Path, postgres_url: str
) -> None:
    sandbox = serve(120)
    output = read(sandbox)
    load(as_lines(output), postgres_url, tmp_path, "tap_homele")
    sql = block("## Customer details", "sql")

    with psycopg.connect(postgres_url) as connection:
        connection.execute("SET timezone = 'Asia/Baghdad'")
        view, query, _ = sql.split(";")
        connection.execute(view)
        rows = connection.execute(query).fetchall()
        # Laravel can write a time so, and means UTC.
        connection.execute(
            "UPDATE tap_homele.customer_details SET additional_properties = "
            "replace(additional_properties::text, '+00:00', '')::jsonb"
        )
        assert connection.execute(query).fetchall() == rows

    expected = [
        (row["id"], change["lead_status"]["name"], change["changed_at"])
        for row in sandbox.customers.values()
        for change in details_of(row)["lead_status_history"]
    ]
    found = [(id_, status, f"{at.isoformat()}+00:00") for id_, status, at in rows]
    assert sorted(found) == sorted(expected)

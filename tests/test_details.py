"""The details of each customer that changed: all of them, and none asked for twice."""

from __future__ import annotations

import gzip
import json
import logging
import random
import re
import time
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

import psycopg
import pytest
from singer_sdk.exceptions import FatalAPIError

from tap_homele import streams
from tap_homele.details import CustomerDetailsStream
from tap_homele.tap import TapHomele
from tests.readme import OPERATING, block
from tests.sandbox import Sandbox, faults
from tests.sandbox.customers import details_of
from tests.sandbox.server import json_response
from tests.singer import (
    Output,
    catalog_of,
    is_open,
    merge,
    open_scan,
    sync,
)
from tests.test_postgres import as_lines, load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Serve
    from tests.sandbox.server import LoggedRequest

DETAILS = "customer_details"
# What is asked for again after an interruption: a page.
PAGE = 100


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
        if record.levelname == level
        and record.name.startswith(("tap-homele.", "tap_homele."))
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
    assert ids(read(sandbox, state=first.state)) == []

    # The same where the scan without them was interrupted.
    killed = sync(sandbox, kill_after=120)
    assert set(ids(read(sandbox, state=killed.state))) == set(sandbox.customers)


def test_fields_of_the_details_that_are_new_are_no_warning(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = serve(3)
    for row in sandbox.customers.values():
        row["phone1"] = {"number": "0750"}

    read(sandbox)

    (listed, details) = (line for line in logged(caplog, "WARNING") if "fit" in line)
    said = "What does not fit its column is in additional_properties: phone1 ("
    assert listed.startswith(f"customers: {said}")
    assert details.startswith(f"customer_details: {said}")
    (new,) = [line for line in logged(caplog) if "has no column" in line]
    assert new.startswith("customer_details: ")
    assert "lead_status_history (customer " in new


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

    assert set(ids(first)) == set(sandbox.customers)
    assert set(asked(sandbox)) == set(sandbox.customers)
    # Neighbouring windows overlap, where the filters may leave out their own day.
    assert len(asked(sandbox)) <= 450 + 12 * (scan_by == "created_date")
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
    assert not is_open(first)

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

    assert set(ids(output)) == set(sandbox.customers)


def test_only_the_details(serve: Serve) -> None:
    sandbox = serve(150)
    catalog = catalog_of(customer_details=True)
    catalog["customers"].metadata.root.selected = False

    first = read(sandbox, catalog=catalog)
    second = read(sandbox, catalog=catalog, state=first.state)

    assert first.records_of("customers") == []
    assert sorted(ids(first)) == sorted(sandbox.customers)
    assert ids(second) == []


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scan_by", "page_size", "case"),
    [
        ("cursor", 100, "quiet"),
        ("auto", 20, "quiet"),
        ("created_date", 100, "quiet"),
        ("cursor", 100, "all active just now"),
        ("created_date", 100, "an import of one day"),
        ("created_date", 100, "ids far apart"),
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
    # There is a SCHEMA for each page.
    assert size < (1.2 if page_size == 100 else 1.6) * records


def test_the_list_and_the_details_share_one_rate_limit(
    serve: Serve, caplog: pytest.LogCaptureFixture, waited: list[float]
) -> None:
    caplog.set_level(logging.INFO)
    start = time.time()
    sandbox = serve(130, rate_limit=60, clock=lambda: start + sum(waited))

    output = read(sandbox)

    assert sorted(ids(output)) == sorted(sandbox.customers)
    # 2 pages, the end, the top, 130 details: two minutes are used up.
    assert len(sandbox.requests) - len(rejected(sandbox)) == 134
    assert len(waited) == len(rejected(sandbox)) == 2
    assert re.search(r"in 136 requests and \d s\. ", logged(caplog)[-1])
    waits = [line for line in logged(caplog) if "; waiting 61 s" in line]
    assert [line.partition(";")[0] for line in waits] == [
        "customer_details: 59 read, 41 pending on this page, 61 requests",
        "customer_details: 118 read, 12 pending on this page, 122 requests",
    ]


def rejected(sandbox: Sandbox) -> list[LoggedRequest]:
    return [request for request in sandbox.requests if request.status == 429]


def test_the_log_says_once_a_minute_how_far_it_is(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = serve(450)
    caplog.set_level(logging.INFO)
    clock = [0.0]
    ours = SimpleNamespace(monotonic=lambda: clock[0])
    for module in ("http", "streams"):
        monkeypatch.setattr(f"tap_homele.{module}.time", ours)
    sandbox.meanwhile_detail = lambda: clock.__setitem__(0, clock[0] + 0.5)

    read(sandbox)

    lines = [line for line in logged(caplog) if " requests." in line]
    assert lines == [
        "customer_details: 120 read, 80 pending on this page, 123 requests.",
        "customer_details: 241 read, 59 pending on this page, 245 requests.",
        "customer_details: 362 read, 38 pending on this page, 367 requests.",
    ]
    assert "customer_details: 450 read." in logged(caplog)[-1]


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
    assert "customer_details: 142 read, 8 missing." in logged(caplog)[-1]
    named: list[int] = []
    for warning in logged(caplog, "WARNING"):  # one for each page
        found = re.fullmatch(
            r"The details of these customers cannot be had, and come when they change "
            r"again: ([\d, ]+)\. The first answer: Homele has no such customer \(404, "
            r"'Not Found\.', GET /api/v2/crm/customers/\d+\)\.",
            warning,
        )
        assert found
        named += map(int, found[1].split(", "))
    assert sorted(named) == gone
    assert not is_open(output)


NONE_HAD: dict[str, tuple[Any, str]] = {
    "404": (faults.refused(404, "Not Found."), "Homele has no such customer (404"),
    "404 of stock Laravel": (
        lambda: json_response({"message": "No query results for model [C] 61"}, 404),
        "Homele has no such customer (404",
    ),
    "404 of another address": (faults.html(404), "Homele has no such customer (404"),
    "410": (
        faults.refused(410, "Gone."),
        "Homele refused GET /api/v2/crm/customers/{}",
    ),
    "403": (
        faults.refused(403, "Insufficient permissions."),
        "The token may read the list of customers, but not these details (403, ",
    ),
    "403 of a firewall": (
        faults.html(403),
        "GET /api/v2/crm/customers/{} was answered with 403 by something in between",
    ),
    "301": (
        faults.html(301, Location="/customers/1"),
        "GET /api/v2/crm/customers/{} was answered with a redirect (301)",
    ),
    "another customer": (
        faults.body('{"success": true, "data": {"id": 1}}'),
        "Homele was asked for customer {}, and answered with customer 1.",
    ),
    "null": (
        faults.body('{"success": true, "data": null}'),
        "Homele was asked for customer {}, and answered with one that is not an object",
    ),
    "a list": (
        faults.body('{"success": true, "data": []}'),
        "Homele was asked for customer {}, and answered with one that is not an object",
    ),
    "no id": (
        faults.body('{"success": true, "data": {"name": "Sara"}}'),
        "Homele was asked for customer {}, and answered with one that has no",
    ),
    "500": (faults.refused(500, "Server Error"), "GET /api/v2/crm/customers/{} was"),
}


@pytest.mark.parametrize("name", NONE_HAD)
@pytest.mark.usefixtures("waited")
def test_one_customer_does_not_hold_up_the_others(
    serve: Serve, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = serve(150)
    answer, sentence = NONE_HAD[name]
    faulty = sorted(sandbox.customers)[70]
    sandbox.detail_faults[faulty] = answer

    output = read(
        sandbox,
        catalog=catalog_of("FULL_TABLE", customer_details=True),
        emit_activate_version_messages=True,
    )

    assert set(ids(output)) == set(sandbox.customers) - {faulty}
    assert "149 read, 1 missing" in logged(caplog)[-1]
    said = [line for line in logged(caplog, "WARNING") if "cannot be had" in line]
    assert said[0].startswith(
        "The details of these customers cannot be had, and come when they change "
        f"again: {faulty}. The first answer: {sentence.format(faulty)}"
    )
    # A target cannot undo it.
    assert [m["stream"] for m in output.of("ACTIVATE_VERSION")] == ["customers"]
    # It comes when the customer changes again.
    first = read(sandbox)
    assert not is_open(first)
    sandbox.detail_faults.clear()
    sandbox.edit(faulty, address="Gulan Street 7")
    assert faulty in ids(read(sandbox, state=first.state))


@pytest.mark.parametrize("name", [name for name in NONE_HAD if name != "500"])
@pytest.mark.parametrize("count", [4, 5])
def test_none_of_five_is_an_error_and_none_of_four_is_not(
    serve: Serve, caplog: pytest.LogCaptureFixture, name: str, count: int
) -> None:
    sandbox = serve(150)
    first = read(sandbox)
    changed = sorted(sandbox.customers)[:count]
    for customer_id in changed:
        sandbox.detail_faults[customer_id] = NONE_HAD[name][0]
        sandbox.edit(customer_id)
    caplog.clear()

    if count == 4:
        second = read(sandbox, state=first.state)
        assert not is_open(second)
        # A line for each page.
        said = " ".join(logged(caplog, "WARNING"))
        assert all(str(customer_id) in said for customer_id in changed)
        return
    failed = Output([])
    with pytest.raises(FatalAPIError, match="the details of none of 5 customers, one"):
        read(sandbox, state=first.state, output=failed)
    # Nothing is lost: they are asked for again.
    sandbox.detail_faults.clear()
    assert set(ids(read(sandbox, state=failed.state))) == set(changed)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (faults.refused(401, "Unauthenticated."), "Homele does not know the token"),
        (faults.refused(503, "Down"), "GET /api/v2/crm/customers/{} was answered with"),
        (faults.html(200), "GET /api/v2/crm/customers/{} was answered with an HTML"),
    ],
)
@pytest.mark.usefixtures("waited")
def test_what_is_not_about_one_customer_is_an_error_and_nothing_is_lost(
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
    assert len(ids(output)) + len(ids(again)) <= 150 + PAGE


def test_a_firewall_that_begins_to_block_loses_nothing(serve: Serve) -> None:
    """In the middle of the details of a page, and then the list, too."""
    sandbox = serve(250)
    blocked = faults.html(403)
    sandbox.meanwhile_detail = lambda: (
        sandbox.detail_faults.update(dict.fromkeys(sandbox.customers, blocked))
        if len(sandbox.requests) == 52
        else None
    )
    output = Output([])

    with pytest.raises(FatalAPIError, match="of none of 50 customers, one after"):
        read(sandbox, output=output)

    sandbox.meanwhile_detail = None
    sandbox.detail_faults.clear()
    again = read(sandbox, state=output.state if output.states else None)
    assert set(ids(output)) | set(ids(again)) == set(sandbox.customers)


def test_a_missing_detail_is_named_also_if_the_run_is_killed(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(250)
    listed = [r["id"] for r in sync(sandbox).records]
    not_found(sandbox, [listed[40]])

    read(sandbox, kill_after=250)

    (said,) = [line for line in logged(caplog, "WARNING") if "cannot be had" in line]
    assert str(listed[40]) in said


def not_found(sandbox: Sandbox, customer_ids: list[int]) -> None:
    for customer_id in customer_ids:
        sandbox.detail_faults[customer_id] = faults.refused(404, "Not Found.")


def test_no_details_at_all_is_an_error(serve: Serve) -> None:
    sandbox = serve(350)
    not_found(sandbox, [*sandbox.customers])
    state = None
    for _ in range(3):
        output = Output([])
        with pytest.raises(FatalAPIError, match="of none of 100 customers, one"):
            read(sandbox, state=state, output=output)
        state = output.states[-1] if output.states else None

    sandbox.detail_faults.clear()
    assert set(ids(read(sandbox, state=state))) == set(sandbox.customers)


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
    said = "No details are marked as deleted: Homele has none of 3 customers."
    assert said in logged(caplog, "WARNING")


def test_some_can_be_deleted_while_their_details_are_read(serve: Serve) -> None:
    sandbox = serve(90)
    gone = sorted(sandbox.customers)[:19]
    sandbox.meanwhile_detail = lambda: sandbox.delete(gone.pop()) if gone else None

    again = read(sandbox)

    assert len(ids(again)) >= 71
    assert not is_open(again)


# Between runs.


@pytest.mark.slow
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
        # A page, or a window; neighbouring windows overlap by some customers.
        assert len(set(asked(sandbox)) & set(before)) <= PAGE + 5


def test_a_full_refresh_that_is_killed_on_its_first_page_is_known(
    serve: Serve,
) -> None:
    """The SDK writes a state at the end of the details, before the page is done."""
    sandbox = serve(50)
    before = read(sandbox)
    whole = read(sandbox)
    at = [n for n, m in enumerate(whole.messages) if m["type"] == "STATE"]
    killed = read(sandbox, kill_after=at[0] + 1)

    after = read(sandbox, state=merge(before.state, killed.state))

    assert len(killed.states) == 1
    assert set(ids(after)) == set(sandbox.customers)


def open_batch(uri: str) -> TextIO:
    return cast("TextIO", gzip.open(url2pathname(urlsplit(uri).path), "rt"))


def one_day(sandbox: Sandbox, count: int) -> None:
    """Put so many customers on one day, which no page of a window holds."""
    rows = list(sandbox.customers.values())
    for row in rows[:count]:
        row["created_at"] = rows[0]["created_at"]


@pytest.mark.slow
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
    assert len(set(asked(sandbox)) & set(ids(confirmed))) <= PAGE


def test_three_on_which_the_server_fails_are_passed_over_and_a_fourth_is_an_error(
    serve: Serve, waited: list[float]
) -> None:
    """Neither is the scan begun anew for it, nor is the cursor left."""
    sandbox = serve(250)
    listed = [r["id"] for r in sync(sandbox).records]
    for customer_id in listed[130:134]:
        sandbox.detail_faults[customer_id] = faults.refused(500, "Server Error")
    sandbox.requests.clear()
    output = Output([])
    with pytest.raises(FatalAPIError, match="500"):
        read(sandbox, output=output, scan_by="auto")
    tried = Counter(asked(sandbox))
    assert [tried[customer_id] for customer_id in listed[130:134]] == [8] * 4
    assert open_scan(output)["mode"] == "cursor"
    assert waited
    del sandbox.detail_faults[listed[130]]

    last = read(sandbox, state=output.state, scan_by="auto")

    assert not is_open(last)
    assert set(listed) - set(ids(output)) - set(ids(last)) == set(listed[131:134])


def test_an_error_with_batches_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    sandbox = serve(450)
    listed = [r["id"] for r in sync(sandbox).records]
    sandbox.detail_faults[listed[330]] = faults.refused(401, "No.")
    config = {
        "encoding": {"format": "jsonl", "compression": "gzip"},
        "storage": {"root": tmp_path.as_uri()},
    }
    first = Output([])
    with pytest.raises(FatalAPIError, match="401"):
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
    positions = [open_scan(s)["position"] for s in output.states if is_open(s)]
    # That of the last page, from which a later run would resume.
    assert positions[-1]["cursor"] == positions[-2]["cursor"]
    pages = [r.url for r in sandbox.requests if "cursor=" in r.url]
    assert pages[-1].endswith(positions[-1]["cursor"])


def test_another_list_is_asked_for_from_the_beginning(serve: Serve) -> None:
    sandbox = serve(50)
    first = read(sandbox)
    sandbox.requests.clear()

    read(sandbox, state=first.state, filter_owner_ids=[1])

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


# The history, as docs/operating.md turns it into rows.


def test_the_history_becomes_rows(
    serve: Serve, tmp_path: Path, postgres_url: str
) -> None:
    sandbox = serve(120)
    output = read(sandbox)
    load(as_lines(output), postgres_url, tmp_path, "tap_homele")
    sql = block("## Customer details", "sql", OPERATING)

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
        # Two changes at the same moment have no order.
        assert sorted(connection.execute(query).fetchall()) == sorted(rows)

    expected = [
        (row["id"], change["lead_status"]["name"], change["changed_at"])
        for row in sandbox.customers.values()
        for change in details_of(row)["lead_status_history"]
    ]
    found = [(id_, status, f"{at.isoformat()}+00:00") for id_, status, at in rows]
    assert sorted(found) == sorted(expected)

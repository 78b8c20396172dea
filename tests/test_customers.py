"""The stream ``customers``: what it asks for, what it gives, where it leaves off."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from singer_sdk.exceptions import FatalAPIError

from tests.sandbox import faults
from tests.sandbox.customers import make_customers
from tests.singer import Output, catalog_of, failed_scans, is_open, saved, sync

if TYPE_CHECKING:
    from tests.sandbox import Sandbox

Serve = "Callable[..., Sandbox]"
LONG_AGO = "2020-01-01T00:00:00+00:00"


def bookmark(value: str) -> dict[str, Any]:
    return {
        "bookmarks": {
            "customers": {
                "replication_key": "updated_at",
                "replication_key_value": value,
            }
        }
    }


def bookmark_of(output: Output) -> str:
    """Give the bookmark of a completed run, and see that nothing else is left."""
    (state,) = output.state["bookmarks"].values()
    assert set(state) == {"replication_key", "replication_key_value", "saved"}
    assert not is_open(output)
    assert failed_scans(output) == 0
    assert state["replication_key"] == "updated_at"
    value: str = state["replication_key_value"]
    return value


def newest(sandbox: Sandbox) -> str:
    """Give the bookmark that a run leaves if nobody changed lately."""
    rows = sandbox.customers.values()
    latest = max(max(r["updated_at"], r["last_activity_at"] or "") for r in rows)
    return (datetime.fromisoformat(latest) + timedelta(seconds=1)).isoformat()


def test_a_first_run_takes_each_customer_once(serve: Serve) -> None:
    sandbox = serve(2345)

    output = sync(sandbox)

    # 24 pages, the last and the first once more: nobody moved while they were read.
    assert len(sandbox.requests) == 26
    assert sandbox.urls[24] == sandbox.urls[23]
    assert sandbox.urls[25] == sandbox.urls[0]
    assert {row["id"]: row for row in output.records} == {
        row["id"]: row | {"additional_properties": None}
        for row in sandbox.customers.values()
    }
    assert len(output.records) == 2345
    assert output.kinds == ["SCHEMA", *["RECORD", "STATE"] * 24]
    assert bookmark_of(output) == newest(sandbox)
    output.validate()


def test_the_customers_of_the_sandbox_are_varied(serve: Serve) -> None:
    rows = list(serve(2345).customers.values())

    always = {"id", "sequential_number", "name", "first_name", "phone1"}
    always |= {"created_at", "updated_at"}
    for field in rows[0]:
        nulls = sum(row[field] is None for row in rows)
        assert (nulls == 0) == (field in always), field
    for field in ("updated_at", "last_activity_at"):
        assert len({row[field] for row in rows}) < len(rows) - 100
    assert rows == make_customers(2345)


def test_a_second_run_takes_what_changed(serve: Serve) -> None:
    sandbox = serve(2345)
    first = sync(sandbox)
    latest = sorted(sandbox.customers.values(), key=lambda row: row["updated_at"])[-7:]
    for row in latest:
        sandbox.edit(row["id"], address="Gulan Street 7")

    second = sync(sandbox, state=first.state)

    assert len(second.ids) == 7
    assert {row["id"]: row for row in second.records} == {
        row["id"]: row | {"additional_properties": None} for row in latest
    }
    # The edits are younger than five minutes; the next run looks at them again.
    assert bookmark_of(first) == bookmark_of(second) < newest(sandbox)


def test_the_first_page_has_no_cursor_and_the_others_follow(serve: Serve) -> None:
    sandbox = serve(250)

    sync(sandbox)

    urls = [urlsplit(url) for url in sandbox.urls]
    assert [url.path for url in urls] == ["/customers"] * 5
    queries = [parse_qsl(url.query) for url in urls]
    assert queries[0] == queries[4] == [("per_page", "100")]
    assert queries[2] == queries[3]
    for query in queries[1:4]:
        assert [name for name, _ in query] == ["per_page", "cursor"]
    assert len({url.query for url in urls}) == 3


def test_every_filter_is_sent_on_every_page(serve: Serve) -> None:
    sandbox = serve(1500)

    output = sync(
        sandbox,
        page_size=5,
        filter_query="a",
        filter_lead_status_ids=[1, 2, 3, 4, 5],
        filter_owner_ids=[1, 2],
        filter_lead_source_ids=[1, 2, 3],
        filter_priority_id=2,
        filter_created_from="2024-02-01",
        filter_created_to="2026-01-31",
    )

    asked = (
        "/customers?per_page=5&filter%5Bquery%5D=a"
        "&filter%5Blead_status.id%5D%5B%5D=1&filter%5Blead_status.id%5D%5B%5D=2"
        "&filter%5Blead_status.id%5D%5B%5D=3&filter%5Blead_status.id%5D%5B%5D=4"
        "&filter%5Blead_status.id%5D%5B%5D=5"
        "&filter%5Bowner.id%5D%5B%5D=1&filter%5Bowner.id%5D%5B%5D=2"
        "&filter%5Blead_source.id%5D%5B%5D=1&filter%5Blead_source.id%5D%5B%5D=2"
        "&filter%5Blead_source.id%5D%5B%5D=3&filter%5Bpriority.id%5D=2"
        "&filter%5Bdate_from%5D=2024-02-01&filter%5Bdate_to%5D=2026-01-31"
    )
    first, *others, again = sandbox.urls
    assert first == again == asked
    assert others
    assert all(url.startswith(f"{asked}&cursor=") for url in others)

    def matches(row: dict[str, Any]) -> bool:
        return bool(
            "a" in row["name"].lower()
            and row["lead_status"]
            and row["lead_status"]["id"] <= 5
            and row["owner"]
            and row["owner"]["id"] <= 2
            and row["lead_source"]
            and row["lead_source"]["id"] <= 3
            and row["priority"]
            and row["priority"]["id"] == 2
            and "2024-02-01" <= row["created_at"][:10] <= "2026-01-31"
        )

    wanted = {row["id"] for row in sandbox.customers.values() if matches(row)}
    assert set(output.ids) == wanted
    assert 5 < len(wanted) < 100


def test_empty_filters_are_not_sent(serve: Serve) -> None:
    sandbox = serve(3)

    sync(sandbox, filter_query="", filter_owner_ids=[], filter_priority_id=None)

    assert sandbox.urls == ["/customers?per_page=100"] * 2


@pytest.mark.parametrize(
    ("updated_at", "last_activity_at", "wanted"),
    [
        ("2026-01-02T00:00:00+00:00", LONG_AGO, True),
        ("2026-01-01T00:00:00+00:00", LONG_AGO, True),
        ("2025-12-31T23:59:59+00:00", LONG_AGO, False),
        ("2025-12-31T23:59:59+00:00", None, False),
        # A new activity changes the record without an update of it.
        (LONG_AGO, "2026-01-01T00:00:00+00:00", True),
        (LONG_AGO, "2025-12-31T23:59:59+00:00", False),
        # One that does not say when it was updated may have changed.
        (None, LONG_AGO, True),
        ("0000-00-00 00:00:00", LONG_AGO, True),
        # The same instants in the other spellings of the API.
        ("2026-01-01T02:59:59+03:00", LONG_AGO, False),
        ("2026-01-01T03:00:00+03:00", LONG_AGO, True),
        ("2025-12-31T23:59:59.999999Z", LONG_AGO, False),
        ("2026-01-01T00:00:00.000001Z", LONG_AGO, True),
        ("2025-12-31 23:59:59", LONG_AGO, False),
        ("2026-01-01 00:00:00", LONG_AGO, True),
    ],
)
def test_incremental_takes_what_is_at_or_after_the_bookmark(
    serve: Serve,
    updated_at: str | None,
    last_activity_at: str | None,
    wanted: bool,  # noqa: FBT001
) -> None:
    sandbox = serve(1)
    (customer_id,) = sandbox.customers
    sandbox.change(
        customer_id, updated_at=updated_at, last_activity_at=last_activity_at
    )

    for state, settings in (
        (bookmark("2026-01-01T00:00:00+00:00"), {}),
        (bookmark("2026-01-01T03:00:00+03:00"), {}),
        ({}, {"start_date": "2026-01-01"}),
        ({}, {"start_date": "2026-01-01T03:00:00+03:00"}),
    ):
        output = sync(sandbox, state=state, **settings)
        assert output.ids == ([customer_id] if wanted else [])


def test_start_date_is_the_bookmark_of_the_first_run_only(serve: Serve) -> None:
    sandbox = serve(200)

    output = sync(sandbox, start_date="2026-01-01")

    rows = sandbox.customers.values()
    changed = {
        row["id"]
        for row in rows
        if row["updated_at"] >= "2026" or (row["last_activity_at"] or "") >= "2026"
    }
    assert set(output.ids) == changed
    assert 0 < len(changed) < 200
    again = sync(sandbox, state=output.state, start_date="2026-01-01")
    assert len(again.ids) < len(output.ids)


def test_the_bookmark_does_not_go_back(serve: Serve) -> None:
    """A customer may come for its activity alone, and was updated long ago."""
    sandbox = serve(1)
    (customer_id,) = sandbox.customers
    sandbox.change(customer_id, updated_at=LONG_AGO, last_activity_at=sandbox.now())

    output = sync(sandbox, state=bookmark("2026-01-01T00:00:00+00:00"))

    assert output.ids == [customer_id]
    assert bookmark_of(output) == "2026-01-01T00:00:00+00:00"


def test_the_bookmark_stays_when_nothing_changed(serve: Serve) -> None:
    output = sync(serve(150), state=bookmark("2026-10-01T00:00:00+00:00"))

    assert output.ids == []
    assert bookmark_of(output) == "2026-10-01T00:00:00+00:00"


def test_an_empty_tenant_leaves_no_bookmark(serve: Serve) -> None:
    output = sync(serve(0))

    assert output.kinds == ["SCHEMA", "STATE"]
    (state,) = output.state["bookmarks"].values()
    assert set(state) == {"saved"}


def test_times_come_in_utc(serve: Serve) -> None:
    sandbox = serve(1)
    (customer_id,) = sandbox.customers
    sandbox.change(
        customer_id,
        created_at="2026-02-15 09:45:00",
        updated_at="2026-02-15T12:45:00+03:00",
        last_activity_at="2026-02-15T09:45:00.250000Z",
    )

    (record,) = sync(sandbox).records

    assert record["created_at"] == "2026-02-15T09:45:00+00:00"
    assert record["updated_at"] == "2026-02-15T09:45:00+00:00"
    assert record["last_activity_at"] == "2026-02-15T09:45:00.250000+00:00"


@pytest.mark.parametrize("name", ["updated_at", "last_activity_at", "created_at"])
@pytest.mark.parametrize("value", [..., "0001-01-01T00:00:00+03:00"])
def test_a_customer_without_a_readable_time_comes(
    serve: Serve, name: str, value: Any
) -> None:
    sandbox = serve(3)
    for row in sandbox.customers.values():
        if value is ...:
            del row[name]
        else:
            row[name] = value
    sandbox.key = lambda row: ("", row["id"])

    output = sync(sandbox)

    assert len(output.records) == 3
    assert all(record[name] is None for record in output.records)


def test_full_table_takes_all_and_keeps_no_bookmark(serve: Serve) -> None:
    sandbox = serve(250)
    catalog = catalog_of("FULL_TABLE")

    first = sync(sandbox, catalog=catalog)
    second = sync(sandbox, catalog=catalog, state=first.state)

    for output in (first, second):
        assert sorted(output.ids) == sorted(sandbox.customers)
        (state,) = output.state["bookmarks"].values()
        assert set(state) == {"saved"}
        assert saved(output)["last_full_scan"]["max_id"] == max(sandbox.customers)


@pytest.mark.parametrize("interruptions", [0, 1, 2])
def test_an_import_with_old_dates_is_new_by_its_ids(
    serve: Serve, interruptions: int
) -> None:
    """Also on a page that an interrupted scan had read before the import."""
    sandbox = serve(1000)
    state = sync(sandbox).state
    new = max(sandbox.customers) + 1
    # The first run breaks off at its fifth page, the second two pages later.
    for at in (5, 3)[:interruptions]:
        broken = Output([])
        sandbox.fail(faults.refused(403, "No."), at=at)
        with pytest.raises(FatalAPIError):
            sync(sandbox, state=state, output=broken)
        state = broken.state
        import_old(sandbox, new)
    import_old(sandbox, new)

    ids: list[int] = []
    for _ in range(2):
        output = sync(sandbox, state=state)
        state = output.state
        ids += output.ids

    assert {new, new + 1} <= set(ids)
    assert not {new, new + 1} & set(sync(sandbox, state=state).ids)


def import_old(sandbox: Sandbox, first_id: int) -> None:
    """Add a customer to the second page, and one to the sixth."""
    if first_id in sandbox.customers:
        return
    rows = [row for row in sandbox.customers.values() if row["last_activity_at"]]
    rows.sort(key=lambda row: str(row["last_activity_at"]))
    for customer_id, like in ((first_id, rows[-150]), (first_id + 1, rows[-520])):
        at = like["last_activity_at"]
        times = {"created_at": at, "updated_at": at, "last_activity_at": at}
        sandbox.add(like | times | {"id": customer_id})


@pytest.mark.parametrize("page_size", [1, 7, 100])
def test_page_size_is_customers_per_request(serve: Serve, page_size: int) -> None:
    sandbox = serve(21)

    output = sync(sandbox, page_size=page_size)

    pages = -(-21 // page_size)
    # The end and the top are asked for again.
    assert len(sandbox.requests) == pages + 1 + (pages > 1)
    assert sorted(output.ids) == sorted(sandbox.customers)


@pytest.mark.parametrize("scan_by", ["auto", "created_date"])
def test_an_id_may_be_text(serve: Serve, scan_by: str) -> None:
    """PHP and its database drivers like to give integers as text."""
    sandbox = serve(250)
    sandbox.render = lambda row: row | {"id": str(row["id"])}

    first = sync(sandbox, scan_by=scan_by, customer_details=True)

    for stream in ("customers", "customer_details"):
        records = first.records_of(stream)
        assert {record["id"] for record in records} == set(sandbox.customers)
        assert not any((r["additional_properties"] or {}).get("id") for r in records)
    first.validate()
    second = sync(sandbox, scan_by=scan_by, customer_details=True, state=first.state)
    assert second.records_of("customers") == []


@pytest.mark.parametrize(
    "value", ["", "4 2", "042", "42.0", "x", True, 4.5, [42], None]
)
def test_any_other_id_is_an_error(serve: Serve, value: Any) -> None:
    sandbox = serve(3)
    sandbox.render = lambda row: row | {"id": value}

    with pytest.raises(FatalAPIError, match=r"row 1 has no integer 'id'"):
        sync(sandbox)

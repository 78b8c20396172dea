"""Whatever the API sends: every record is valid, and no value is gone."""

from __future__ import annotations

import copy
import json
import logging
import math
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from singer_sdk.exceptions import FatalAPIError

from tap_homele.records import Fitter, MisfitError, decode, storable
from tap_homele.streams import CustomersStream
from tests.sandbox import Sandbox, faults
from tests.sandbox.customers import make_customers
from tests.singer import Output, catalog_of, sync
from tests.test_postgres import as_lines, load, table
from tests.world import warnings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Serve

(CUSTOMER,) = make_customers(1)
RELATED = ("lead_status", "lead_source", "owner", "priority", "country", "city")
TIMES = ("created_at", "updated_at", "last_activity_at")

# Half pairs of surrogates and NUL included, as JSON can spell them out.
texts = st.text(st.characters(categories=None), max_size=8) | st.sampled_from(
    ["", "\x00", "\ud800", "0000-00-00 00:00:00", "42", "-7", "1.50", "null", "٣"]
)
numbers = (
    st.integers()
    | st.integers(min_value=-(10**30), max_value=10**30)
    | st.decimals(allow_nan=False, allow_infinity=False)
)
anything = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
    ),
    max_leaves=6,
)
related = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("id", "name", "email", "id.x"), anything)
)
names = st.sampled_from([name for name in CUSTOMER if name != "id"])
rows = st.builds(
    lambda changes, objects, more: CUSTOMER | changes | objects | more,
    st.dictionaries(names, anything, max_size=6),
    st.dictionaries(st.sampled_from(RELATED), related, max_size=3),
    st.dictionaries(
        texts | st.sampled_from(["owner.email", "additional_properties", "owner.id"]),
        anything,
        max_size=3,
    ),
)


def spell(value: Any) -> str:
    """Write JSON with every digit and every character, as a server could."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, dict):
        items = (f"{json.dumps(key)}:{spell(item)}" for key, item in value.items())
        return f"{{{','.join(items)}}}"
    return json.dumps(value)


def page_of(*customers: Any) -> str:
    meta = {"per_page": 100, "next_cursor": None, "prev_cursor": None}
    return spell(
        {
            "success": True,
            "data": list(customers),
            "meta": meta | {"has_more": False},
        }
    )


def gone(row: dict[str, Any], record: dict[str, Any]) -> list[str]:
    """Name what the row has and the record has not."""
    # As the reader of the page spells numbers out of all bounds, and NUL.
    row = decode(spell(row).encode())
    extra = record["additional_properties"] or {}
    return [
        name
        for name, column, value in parts(row, record)
        if not held(name, column, value, extra)
    ]


def parts(
    row: dict[str, Any], record: dict[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Give each value of a row with the column that may hold it."""
    for name, value in row.items():
        if name in RELATED and isinstance(value, dict):
            for part, item in value.items():
                yield f"{name}.{part}", (record[name] or {}).get(part), item
        else:
            yield name, record[name] if name in CUSTOMER else None, value


def held(name: str, column: Any, value: Any, extra: dict[str, Any]) -> bool:
    in_column = column is not None and (name in TIMES or str(column) == str(value))
    left_over = any(
        name in {key, key.rstrip("*")} and spell(item) == spell(value)
        for key, item in extra.items()
    )
    nothing = value is None and (name in CUSTOMER or name.endswith((".id", ".name")))
    return in_column or left_over or nothing


@pytest.fixture(scope="module")
def world() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


def records_of(world: Sandbox, *customers: Any) -> list[dict[str, Any]]:
    """Send rows through the real tap, and take the records as they are written."""
    world.requests.clear()
    world.fail(faults.body(page_of(*customers)))
    output = Output([])
    sync(world, output=output, parse_float=Decimal)
    output.validate()
    return output.records


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[*HealthCheck],
)
@given(st.lists(rows, min_size=1, max_size=5))
@example([CUSTOMER | {"owner.email": 1, "owner": {"email": 2, "id": 1, "name": "x"}}])
@example([CUSTOMER | {"budget": Decimal("1E+400"), "sequential_number": 10**30}])
def test_any_json_fits_and_nothing_is_gone(
    world: Sandbox, customers: list[dict[str, Any]]
) -> None:
    customers = [row | {"id": number} for number, row in enumerate(customers)]

    records = records_of(world, *customers)

    assert [record["id"] for record in records] == [row["id"] for row in customers]
    for row, record in zip(customers, records, strict=True):
        assert gone(row, record) == []


@pytest.mark.parametrize(
    ("field", "value", "column", "extra"),
    [
        # Text.
        ("name", 17, "17", None),
        ("name", Decimal("1.50"), "1.50", None),
        ("name", True, None, {"name": True}),
        ("name", {"first": "Sara"}, None, {"name": {"first": "Sara"}}),
        ("name", ["Sara"], None, {"name": ["Sara"]}),
        ("name", "a\x00b", "a\\u0000b", None),
        ("name", "a\ud800b", "a\\ud800b", None),
        ("name", "😀", "😀", None),
        # Integers.
        ("sequential_number", "42", 42, None),
        ("sequential_number", "-42", -42, None),
        ("sequential_number", "٤٢", None, {"sequential_number": "٤٢"}),
        ("sequential_number", "4.2", None, {"sequential_number": "4.2"}),
        ("sequential_number", Decimal("4.0"), None, {"sequential_number": 4.0}),
        ("sequential_number", True, None, {"sequential_number": True}),
        ("sequential_number", 2**63 - 1, 2**63 - 1, None),
        ("sequential_number", 2**63, None, {"sequential_number": 2**63}),
        # The decimal.
        ("budget", "150000.00", "150000.00", None),
        ("budget", Decimal("150000.10"), "150000.10", None),
        ("budget", 150000, "150000", None),
        ("budget", "about 5", None, {"budget": "about 5"}),
        ("budget", "", None, {"budget": ""}),
        # Dates and times.
        ("expected_sale_date", "2026-06-15", "2026-06-15", None),
        ("expected_sale_date", "20260615", None, {"expected_sale_date": "20260615"}),
        ("expected_sale_date", 2026, None, {"expected_sale_date": 2026}),
        (
            "updated_at",
            "2026-02-15T12:45:00+03:00",
            "2026-02-15T09:45:00+00:00",
            None,
        ),
        (
            "updated_at",
            "0000-00-00 00:00:00",
            None,
            {"updated_at": "0000-00-00 00:00:00"},
        ),
        ("updated_at", 1771148700, None, {"updated_at": 1771148700}),
        # Laravel's cast of a day; only midnight, whatever its zone, is a day.
        ("expected_sale_date", "2026-06-15T00:00:00.000000Z", "2026-06-15", None),
        ("expected_sale_date", "2026-06-15T00:00:00+03:00", "2026-06-15", None),
        ("expected_sale_date", "2026-06-15 00:00:00", "2026-06-15", None),
        *(
            ("expected_sale_date", value, None, {"expected_sale_date": value})
            for value in (
                *("2026-06-14T21:00:00.000000Z", "2026-06-15T00:00:00.5Z"),
                *("2026-06-15T", "2026-02-30T00:00:00Z", "2026-06-15T00:00:00Z "),
            )
        ),
        # Related objects.
        ("owner", None, None, None),
        ("owner", {}, {"id": None, "name": None}, None),
        ("owner", {"id": "3", "name": 4}, {"id": 3, "name": "4"}, None),
        ("owner", ["Dana"], None, {"owner": ["Dana"]}),
        ("owner", "Dana", None, {"owner": "Dana"}),
        (
            "owner",
            {"id": 3, "name": "Dana", "email": "dana@example.com"},
            {"id": 3, "name": "Dana"},
            {"owner.email": "dana@example.com"},
        ),
        (
            "owner",
            {"id": "x", "name": None},
            {"id": None, "name": None},
            {"owner.id": "x"},
        ),
        # Fields that the schema does not know.
        ("occupation", "Teacher", ..., {"occupation": "Teacher"}),
        ("occupation", None, ..., {"occupation": None}),
        ("additional_properties", 1, ..., {"additional_properties": 1}),
    ],
)
def test_where_a_value_goes(
    world: Sandbox, field: str, value: Any, column: Any, extra: Any
) -> None:
    (record,) = records_of(world, CUSTOMER | {field: value})

    if column is not ...:
        assert record[field] == column
        assert type(record[field]) is type(column)
    assert record["additional_properties"] == extra
    others = {
        k: v for k, v in record.items() if k not in {field, "additional_properties"}
    }
    assert others == {k: v for k, v in CUSTOMER.items() if k != field}


def test_a_number_keeps_every_digit(serve: Serve) -> None:
    sandbox = serve(1)
    digits = "123456789012345678901234567890.123456789012345678901234567890"
    body = page_of(CUSTOMER | {"score": "DIGITS", "count": 10**25, "far": "FAR"})
    body = body.replace('"DIGITS"', digits).replace('"FAR"', "1e99999")
    sandbox.fail(faults.body(body))
    output = Output([])

    sync(sandbox, output=output, parse_float=Decimal)

    (record,) = output.records
    assert record["additional_properties"] == {
        "score": Decimal(digits),
        "count": 10**25,
        # No database has numbers like this.
        "far": "1e99999",
    }


def test_one_line_for_all_fields(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    sandbox = serve(250)
    for row in list(sandbox.customers.values())[10:]:
        row["occupation"] = "secret"
        row["name"] = {"secret": True}
        row["owner"] = {"id": 1, "name": "Sara", "email": "secret"}
    first = max(
        list(sandbox.customers.values())[10:],
        key=lambda row: (row["last_activity_at"] or "", row["id"]),
    )["id"]

    output = sync(sandbox)

    assert len(output.records) == 250
    said = [(r.levelname, r.getMessage()) for r in caplog.records]
    where = f"(customer {first})"
    kept = "is in additional_properties"
    new = f"owner.email {where}, occupation {where}"
    assert [(level, line) for level, line in said if kept in line] == [
        ("WARNING", f"customers: What does not fit its column {kept}: name {where}."),
        ("INFO", f"customers: What has no column {kept}: {new}."),
    ]


GONE = (
    "customers: In this run no customer had {}, so it was sent as null. To keep what "
    "is in the warehouse, do not select it."
)


@pytest.mark.parametrize(
    ("lacking", "without", "said"),
    [
        (250, [], [GONE.format("city, phone1")]),
        (249, [], []),
        (0, [], []),
        (250, ["city"], [GONE.format("phone1")]),
        (250, ["city", "phone1"], []),
    ],
)
def test_a_field_that_no_customer_has_any_more_is_warned_of(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    lacking: int,
    without: list[str],
    said: list[str],
) -> None:
    sandbox = serve(250)
    for row in list(sandbox.customers.values())[:lacking]:
        del row["phone1"], row["city"]
    catalog = catalog_of()
    for name in without:
        catalog["customers"].metadata["properties", name].selected = False

    output = sync(sandbox, catalog=catalog)

    assert warnings(caplog) == said
    # A schema must hold: the column comes, as null.
    assert all(("phone1" in without) or "phone1" in row for row in output.records)
    output.validate()


def test_where_nobody_came_no_field_is_missed(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sync(serve(0))

    assert warnings(caplog) == []


def test_the_sdk_does_not_warn_of_each_customer_without_an_update(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = serve(250)
    for row in sandbox.customers.values():
        row["updated_at"] = None

    first = sync(sandbox)
    second = sync(sandbox, state=first.state)

    assert len(first.ids) == len(second.ids) == 250
    assert warnings(caplog) == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("Sara", "is not an object"),
        (None, "is not an object"),
        ([CUSTOMER], "is not an object"),
        ({k: v for k, v in CUSTOMER.items() if k != "id"}, "has no integer 'id'"),
        (CUSTOMER | {"id": None}, "has no integer 'id'"),
        (CUSTOMER | {"id": "07"}, "has no integer 'id'"),
        (CUSTOMER | {"id": True}, "has no integer 'id'"),
        (CUSTOMER | {"id": Decimal("7.0")}, "has no integer 'id'"),
        (CUSTOMER | {"id": 2**63}, "has no integer 'id'"),
    ],
)
def test_a_row_that_cannot_be_stored_is_an_error(
    world: Sandbox, row: Any, reason: str
) -> None:
    with pytest.raises(FatalAPIError) as error:
        records_of(world, CUSTOMER, CUSTOMER, row)

    assert str(error.value).startswith(
        f"A page of the list cannot be stored: row 3 {reason}."
    )


def test_json_that_is_nested_too_deeply_is_an_error(
    world: Sandbox, waited: list[float]
) -> None:
    world.fail(faults.body("[" * 100_000 + "]" * 100_000), times=math.inf)

    with pytest.raises(FatalAPIError, match="no readable JSON"):
        sync(world)

    assert waited
    world.faults.clear()


def test_deselected_columns_and_stream_maps_see_what_is_left_over(
    serve: Serve,
) -> None:
    sandbox = serve(3)
    for row in sandbox.customers.values():
        row["occupation"] = "Teacher"
    catalog = catalog_of()
    metadata = catalog["customers"].metadata
    metadata[("properties", "additional_properties")].selected = False

    deselected = sync(sandbox, catalog=catalog)
    assert all("additional_properties" not in record for record in deselected.records)

    mapped = sync(
        sandbox,
        stream_maps={
            "customers": {"occupation": "additional_properties['occupation']"}
        },
    )
    assert {record["occupation"] for record in mapped.records} == {"Teacher"}


NASTIEST: list[dict[str, Any]] = [
    {field: value}
    for field in ("name", "sequential_number", "budget", "updated_at", "owner", "more")
    for value in (
        *("\x00", "\ud800", "😀\u202e", "'; DROP TABLE customers; --", "\\", '"', "{}"),
        *(10**30, -(10**30), Decimal("1E+400"), Decimal("1E-400"), True),
        *({"\x00": "\ud800", "": None}, {"id": "\x00", "name": "\x00", "x": [{}]}),
        *([[]], "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z"),
    )
]


def test_postgres_takes_the_nastiest(
    serve: Serve, tmp_path: Path, postgres_url: str
) -> None:
    customers = [CUSTOMER | nasty | {"id": i} for i, nasty in enumerate(NASTIEST)]
    assert len(customers) >= 100
    sandbox = serve(1)
    # A page has at most a hundred, and this is only one.
    sandbox.fail(faults.body(page_of(*customers)))
    output = Output([])
    sync(sandbox, output=output, parse_float=Decimal)

    load(as_lines(output), postgres_url, tmp_path, "nastiest")

    stored = table(postgres_url, "nastiest")
    assert len(stored) == len(customers)
    for record in output.records:
        row = stored[record["id"]]
        assert row["name"] == record["name"]
        assert row["sequential_number"] == record["sequential_number"]
        assert row["budget"] == record["budget"]
        assert row["owner"] == record["owner"]
        extra = record["additional_properties"]
        assert (row["additional_properties"] is None) == (extra is None)
        assert set(row["additional_properties"] or ()) == set(extra or ())


def test_storable_is_what_json_spells() -> None:
    r"""The six characters of ``\u0000`` are not mistaken for NUL."""
    assert decode(rb'"\u0000 \\u0000"') == r"\u0000 \u0000"
    assert decode(rb'"\ud83d\ude00 \ud83d"') == "😀 \\ud83d"
    assert storable(["a", 1, None, {"\x00": True}]) == ["a", 1, None, {"\\u0000": True}]
    assert not re.search("[\x00\ud800-\udfff]", storable("\x00\ud800\udfff"))


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("digits", [19, 400, 4300, 4301, 9999])
def test_an_integer_of_any_length_keeps_every_digit(sign: str, digits: int) -> None:
    number = sign + "9" * digits

    value = decode(f'{{"big": {number}}}'.encode())["big"]

    # Python itself stops at 4,300 digits: that is text.
    assert (value if isinstance(value, str) else str(value)) == number


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_does_no_harm(encoding: str) -> None:
    assert decode('{"name": "سارا"}'.encode(encoding)) == {"name": "سارا"}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"NaN", b"[-Infinity]", b"\xff", b"[" * 9999, b"<html>"]
)
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError), match=r"."):
        decode(body)


def test_names_that_are_spelled_alike_are_both_kept() -> None:
    body = rb'{"\u0000": 1, "\\u0000": 2, "a": {"\ud800": 3, "\\ud800": 4}}'

    assert decode(body) == {
        r"\u0000": 1,
        r"\u0000*": 2,
        "a": {r"\ud800": 3, r"\ud800*": 4},
    }


def test_a_value_that_is_nested_deeply_is_kept(serve: Serve) -> None:
    sandbox = serve(3)
    first, second, third = sandbox.customers.values()
    page = page_of(*({**row, "deep": "#"} for row in (first, second, third)))
    for levels in (50, 500, 900):
        page = page.replace('"#"', levels * '{"a":' + "1.5" + levels * "}", 1)
    sandbox.fail(faults.body(page))

    output = sync(sandbox)

    assert len(output.records) == 3
    deep = {r["id"]: r["additional_properties"]["deep"] for r in output.records}
    for levels, row in ((50, first), (500, second), (900, third)):
        assert json.dumps(deep[row["id"]]) == levels * '{"a": ' + "1.5" + levels * "}"


# Values that are almost as documented, or just so.
ALMOST = [
    *(
        None,
        True,
        0,
        5,
        -(2**63),
        2**63,
        2**63 - 1,
        Decimal("1.50"),
        "",
        "x",
        "5",
        [],
        {},
    ),
    *("2026-02-15T09:45:00+00:00", "2026-02-15T09:45:00Z", "2026-02-15t09:45:00+00:00"),
    *("2026-02-15 09:45:00", "2026-02-15 09:45:00+00:00", "2026-02-15T12:45:00+03:00"),
    *("2026-02-15T09:45:00.000000Z", "2026-02-15T09:45:00.123456789Z", "2026-02-15"),
    *("2026-02-15T24:00:00+00:00", "2026-02-15T09:45:60+00:00", "2026-02-30"),
    *("2026-02-15T09:45:00-00:00", "0000-00-00 00:00:00", "20260215", "2026-W07-7"),
    *("1.50", "1.50\n", "-1", "1e5", "٣", ".5", "5.", "2026-02-15T09:45:00+00:00\n"),
    *(
        {"id": 1, "name": "x"},
        {"id": 1},
        {"id": "1", "name": "x"},
        {"name": None, "id": 2},
    ),
    *(
        {"id": 1, "name": "x", "email": "y"},
        {"id": 1, "name": {}},
        {"id": None, "name": None},
    ),
]


@given(
    changes=st.dictionaries(
        st.sampled_from([*CustomersStream.schema["properties"], "website"]),
        st.sampled_from(ALMOST),
        max_size=2,
    ),
    without=st.none() | st.sampled_from([*CustomersStream.schema["properties"]]),
    flattened=st.booleans(),
)
@settings(max_examples=500)
def test_the_quick_way_makes_the_same_records(
    changes: dict[str, Any], without: str | None, *, flattened: bool
) -> None:
    class Slow(Fitter):
        def _fit_usual(self, row: Any) -> None:
            del row

    row = make_customers(1)[0] | changes
    row.pop(without, None)
    results = []
    for kind in (Fitter, Slow):
        fitter = kind(CustomersStream.schema, flattened=flattened)
        before = copy.deepcopy(row)
        try:
            results.append((fitter.fit(row), fitter.misfits))
        except MisfitError as error:
            results.append((str(error), {}))
        assert row == before

    assert results[0] == results[1]


def test_the_quick_way_is_taken() -> None:
    class Quick(Fitter):
        def _fit_any(self, row: Any) -> Any:
            raise AssertionError(row)

    fitter = Quick(CustomersStream.schema, flattened=False)

    for row in make_customers(200):
        assert fitter.fit(row) == row | {"additional_properties": None}

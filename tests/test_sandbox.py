"""The sandbox against what is known of the API and of Laravel."""

from __future__ import annotations

import base64
import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
import requests

from tests.sandbox import faults
from tests.sandbox.customers import details_of
from tests.sandbox.server import Token

if TYPE_CHECKING:
    from tests.conftest import Serve
    from tests.sandbox import Sandbox

HEADERS = {"Authorization": "Bearer 1|sandbox", "Accept": "application/json"}


def get(sandbox: Sandbox, path: str = "/customers", **headers: str) -> Any:
    return requests.get(
        f"{sandbox.api_url}{path}",
        headers=HEADERS | headers,
        allow_redirects=False,
        timeout=10,
    )


def decode(cursor: str) -> dict[str, Any]:
    text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def test_the_envelope(serve: Serve) -> None:
    sandbox = serve(60)

    body = get(sandbox).json()

    assert list(body) == ["success", "data", "meta"]
    assert body["success"] is True
    assert body["meta"]["per_page"] == len(body["data"]) == 25
    assert body["meta"]["has_more"] is True
    assert body["meta"]["prev_cursor"] is None


@pytest.mark.parametrize(("asked", "given"), [(7, 7), (100, 100), (500, 100)])
def test_per_page(serve: Serve, asked: int, given: int) -> None:
    body = get(serve(120), f"/customers?per_page={asked}").json()

    assert len(body["data"]) == body["meta"]["per_page"] == given


def test_the_list_runs_by_last_activity_then_id_newest_first(serve: Serve) -> None:
    sandbox = serve(95)
    rows: list[dict[str, Any]] = []
    path = "/customers?per_page=10"
    while True:
        body = get(sandbox, path).json()
        rows += body["data"]
        cursor = body["meta"]["next_cursor"]
        if not body["meta"]["has_more"]:
            break
        assert "=" not in cursor
        assert decode(cursor)["id"] == rows[-1]["id"]
        assert decode(cursor)["last_activity_at"] == rows[-1]["last_activity_at"]
        path = f"/customers?per_page=10&cursor={cursor}"

    assert cursor is None
    keys = [(row["last_activity_at"] or "", row["id"]) for row in rows]
    assert keys == sorted(keys, reverse=True)
    assert len(keys) == 95
    # Customers without an activity come last, and come.
    assert None in [row["last_activity_at"] for row in rows]


def test_prev_cursor_leads_back(serve: Serve) -> None:
    sandbox = serve(30)
    pages = [get(sandbox, "/customers?per_page=10").json()]
    for _ in range(2):
        cursor = pages[-1]["meta"]["next_cursor"]
        pages.append(get(sandbox, f"/customers?per_page=10&cursor={cursor}").json())

    for before, page in itertools.pairwise(pages):
        cursor = page["meta"]["prev_cursor"]
        back = get(sandbox, f"/customers?per_page=10&cursor={cursor}").json()
        assert back["data"] == before["data"]


def test_changes_move_customers_as_sorting_anew_would(serve: Serve) -> None:
    sandbox = serve(50)
    get(sandbox)  # the list is sorted when it is first asked for
    first, second, third, *_ = sandbox.customers

    sandbox.change(first, last_activity_at=sandbox.now())
    sandbox.change(second, last_activity_at=None)
    sandbox.add(sandbox.customers[third] | {"id": 9999})
    sandbox.delete(third)

    ids = [row["id"] for row in get(sandbox, "/customers?per_page=100").json()["data"]]
    rows = sandbox.customers.values()
    keys = sorted(((r["last_activity_at"] or "", r["id"]) for r in rows), reverse=True)
    assert ids == [customer_id for _, customer_id in keys]


def test_a_cursor_survives_the_end_of_its_customer(serve: Serve) -> None:
    sandbox = serve(30)
    first = get(sandbox, "/customers?per_page=10").json()
    second = f"/customers?per_page=10&cursor={first['meta']['next_cursor']}"
    before = get(sandbox, second).json()["data"]

    sandbox.delete(first["data"][-1]["id"])

    assert get(sandbox, second).json()["data"] == before


def test_a_customer_with_a_new_activity_leaves_the_pages_ahead(serve: Serve) -> None:
    sandbox = serve(30)
    first = get(sandbox, "/customers?per_page=10").json()
    second = f"/customers?per_page=10&cursor={first['meta']['next_cursor']}"
    moved = get(sandbox, second).json()["data"][0]["id"]

    sandbox.change(moved, last_activity_at=sandbox.now())

    assert moved not in [row["id"] for row in get(sandbox, second).json()["data"]]
    assert get(sandbox, "/customers").json()["data"][0]["id"] == moved


@pytest.mark.parametrize("cursor", ["", "garbled", "e30", "bnVsbA", "%F0%9F"])
def test_a_cursor_that_cannot_be_read_gives_the_first_page(
    serve: Serve, cursor: str
) -> None:
    sandbox = serve(30)

    answer = get(sandbox, f"/customers?cursor={cursor}")

    assert answer.status_code == 200
    assert answer.json() == get(sandbox).json()


def test_filters(serve: Serve) -> None:
    sandbox = serve(100)

    def ids(query: str) -> set[int]:
        data = get(sandbox, f"/customers?per_page=100&{query}").json()["data"]
        return {row["id"] for row in data}

    def matching(test: Any) -> set[int]:
        return {row["id"] for row in sandbox.customers.values() if test(row)}

    def related(row: dict[str, Any], name: str) -> int | None:
        return row[name] and row[name]["id"]

    assert ids("filter[query]=ALI") == matching(lambda r: "ali" in r["name"].lower())
    assert ids("filter[owner.id][]=1&filter[owner.id][]=3") == matching(
        lambda row: related(row, "owner") in {1, 3}
    )
    assert ids("filter[lead_status.id][]=2") == matching(
        lambda row: related(row, "lead_status") == 2
    )
    assert ids("filter[lead_source.id][]=2&filter[priority.id]=1") == matching(
        lambda r: related(r, "lead_source") == 2 and related(r, "priority") == 1
    )
    assert ids("filter[date_from]=2025-01-01&filter[date_to]=2025-06-30") == matching(
        lambda row: "2025-01-01" <= row["created_at"][:10] <= "2025-06-30"
    )


def test_one_customer(serve: Serve) -> None:
    sandbox = serve(3)
    customer_id = max(sandbox.customers)

    body = get(sandbox, f"/customers/{customer_id}").json()

    row = sandbox.customers[customer_id]
    assert body == {"success": True, "data": row | details_of(row)}
    assert set(body["data"]) - set(row) == {
        *("occupation", "real_estate_types", "lead_status_history")
    }
    missing = get(sandbox, "/customers/999999")
    assert missing.status_code == 404
    assert missing.json() == {"success": False, "message": "Not Found."}


@pytest.mark.parametrize("token", ["", "Bearer", "Bearer wrong", "1|sandbox"])
def test_no_token_no_answer(serve: Serve, token: str) -> None:
    sandbox = serve(3)

    answer = get(sandbox, Authorization=token)
    assert answer.status_code == 401
    assert answer.json() == {"success": False, "message": "Unauthenticated."}

    # A client that does not accept JSON first is taken for a browser.
    browser = get(sandbox, Authorization=token, Accept="*/*")
    assert browser.status_code == 302
    assert browser.headers["Location"] == "/login"


def test_a_token_without_the_permission(serve: Serve) -> None:
    answer = get(serve(3, tokens={"1|sandbox": Token(permissions=frozenset())}))

    assert answer.status_code == 403
    assert answer.json() == {"success": False, "message": "Insufficient permissions."}


def test_the_window_of_the_rate_limit(serve: Serve) -> None:
    now = [1_000_000.0]
    tokens = {name: Token() for name in ("1|sandbox", "2|same user")}
    tokens["3|other"] = Token(user="other")
    sandbox = serve(3, rate_limit=4, clock=lambda: now[0], tokens=tokens)
    sandbox.fail(faults.refused(500, "Server Error"), at=2)

    first = get(sandbox)
    assert first.headers["X-RateLimit-Limit"] == "4"
    assert first.headers["X-RateLimit-Remaining"] == "3"
    now[0] += 30
    assert get(sandbox).status_code == 500
    assert get(sandbox, "/customers/999999").status_code == 404
    assert get(sandbox, Authorization="Bearer wrong").status_code == 401
    # 401 did not count, 404 and 500 do.
    assert get(sandbox).headers["X-RateLimit-Remaining"] == "0"

    for token in ("1|sandbox", "2|same user"):
        blocked = get(sandbox, Authorization=f"Bearer {token}")
        assert blocked.status_code == 429
        assert blocked.headers["Retry-After"] == "30"
        assert blocked.headers["X-RateLimit-Reset"] == "1000060"
        assert blocked.json() == {
            "success": False,
            "message": "Too Many Attempts.",
            "retry_after": 30,
        }
    assert get(sandbox, Authorization="Bearer 3|other").status_code == 200

    # With Redis, Laravel says 0 for most of the last second, and still blocks.
    now[0] += 29.5
    assert get(sandbox).headers["Retry-After"] == "0"
    now[0] += 0.5
    assert get(sandbox).headers["X-RateLimit-Remaining"] == "3"


def test_the_clock_of_the_server_is_in_the_answer(serve: Serve) -> None:
    answer = get(serve(1, clock=lambda: 0.0))

    assert answer.headers["Date"] == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_the_log_holds_exact_urls(serve: Serve) -> None:
    sandbox = serve(1)

    get(sandbox, "/customers?filter%5Bquery%5D=a%20b&per_page=1")

    assert sandbox.urls == ["/customers?filter%5Bquery%5D=a%20b&per_page=1"]

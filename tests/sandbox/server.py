"""The Homele API, as far as it is known, on a loopback port.

Built from what the vendor documents and from what Laravel does: the envelope and its
errors, cursors, filters, and the window of 60 requests a minute.
"""

from __future__ import annotations

import base64
import bisect
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from flask import Flask, Response, redirect, request
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.sandbox.customers import Customer, details_of, make_customers, spell

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext

    from typing_extensions import Self

API_PATH = "/api/v2/crm"
TOKEN = "1|sandbox"  # noqa: S105


@dataclass
class Token:
    """What a token may do, and whose budget of requests it uses."""

    user: str = "user"
    permissions: frozenset[str] = frozenset({"customer:read"})


@dataclass
class LoggedRequest:
    """A request as it came in, and the status that it was answered with."""

    method: str
    url: str
    headers: dict[str, str]
    status: int = 0


@dataclass
class Window:
    """The requests of one user since the window began."""

    began: float
    used: int = 0


@dataclass
class Fault:
    """An answer that takes the place of the ordinary one."""

    answer: Callable[[], Response]
    at: int
    times: float


@dataclass
class Sandbox:
    """A Homele API with its customers. A context manager that serves it."""

    customers: dict[int, Customer] = field(default_factory=dict)
    tokens: dict[str, Token] = field(default_factory=lambda: {TOKEN: Token()})
    # Requests per window, and its length in seconds. No limit, where it is None.
    rate_limit: int | None = None
    window: float = 60
    clock: Callable[[], float] = time.time
    # Called before each list request is answered: what happens meanwhile.
    meanwhile: Callable[[], object] | None = None
    # The same, before each request for the details of a customer.
    meanwhile_detail: Callable[[], object] | None = None
    # Answers to requests for details that take the place of the ordinary ones, by id.
    detail_faults: dict[int, Callable[[], Response]] = field(default_factory=dict)
    # How long an answer takes, in seconds.
    latency: float = 0
    # How a customer is written: the API has more than one spelling of a time.
    render: Callable[[Customer], Customer] | None = None
    # What the list is sorted by, descending; no activity sorts as the oldest (MySQL).
    key: Callable[[Customer], tuple[str, int]] = lambda row: (
        row["last_activity_at"] or "",
        row["id"],
    )
    # Faults of Laravel's cursor, from the second page on: those without an activity are
    # left out (MySQL, SQLite); so are those of the cursor's second (a column with parts
    # of a second); a cursor without an activity gets 500 (PostgreSQL).
    drops_nulls: bool = False
    drops_seconds: bool = False
    fails_on_null: bool = False
    # Cursors on which it fails.
    failing_cursors: set[str] = field(default_factory=set)
    # Whether the filters of the created date include their own day, and what a day is.
    includes_from: bool = True
    includes_to: bool = True
    zone: tzinfo = timezone.utc
    # Filters that are not minded.
    ignored: tuple[str, ...] = ()
    # The most customers on a page, whatever is asked for.
    most: int = 100
    requests: list[LoggedRequest] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.port = 0
        self.stopped = threading.Event()
        self._windows: dict[str, Window] = {}
        self.faults: deque[Fault] = deque()
        self._list_requests = 0
        self._lock = threading.RLock()
        self._lists: dict[str, tuple[list[tuple[str, int]], list[Customer]]] = {}
        self.app = self._make_app()

    @classmethod
    def with_customers(cls, count: int, *, seed: int = 7, **options: Any) -> Sandbox:
        """Make a sandbox with so many seeded customers."""
        rows = make_customers(count, seed=seed)
        return cls(customers={row["id"]: row for row in rows}, **options)

    # What a test, or the demo, does with it.

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}{API_PATH}"

    @property
    def urls(self) -> list[str]:
        """The paths and queries that were asked for, without the API's address."""
        return [logged.url.removeprefix(API_PATH) for logged in self.requests]

    @property
    def window_ends(self) -> float:
        """When the last window of requests ends, by the sandbox's clock."""
        return max(window.began for window in self._windows.values()) + self.window

    def now(self) -> str:
        return spell(datetime.fromtimestamp(self.clock(), tz=timezone.utc))

    def change(self, customer_id: int, **values: Any) -> None:
        """Set fields of a customer, and nothing else."""
        with self._lock:
            row = self.customers[customer_id]
            self._take_out(row)
            row.update(values)
            self._put_in(row)

    def edit(self, customer_id: int, **values: Any) -> None:
        """Edit a customer as a user of Homele does: it is updated now."""
        self.change(customer_id, **values, updated_at=self.now())

    def add(self, customer: Customer) -> None:
        with self._lock:
            self.customers[customer["id"]] = customer
            self._put_in(customer)

    def delete(self, customer_id: int) -> None:
        with self._lock:
            self._take_out(self.customers.pop(customer_id))

    def clear(self) -> None:
        """Forget all customers, and all requests."""
        with self._lock:
            self.customers.clear()
            self._lists.clear()
            self.requests.clear()

    def fail(
        self, answer: Callable[[], Response], *, at: int = 1, times: float = 1
    ) -> None:
        """Answer the at-th request for a list from now on in another way.

        ``times`` is how often, counting tries of the same page; ``math.inf``: always.
        """
        with self._lock:
            self.faults.append(Fault(answer, self._list_requests + at, times))

    @property
    def fails_next(self) -> bool:
        """Whether the next request for a list will be answered in another way."""
        with self._lock:
            return self._fault(self._list_requests + 1) is not None

    # Serving.

    def __enter__(self) -> Self:
        return self if self.port else self.serve()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def serve(self, port: int = 0, ssl_context: SSLContext | None = None) -> Self:
        """Listen on a loopback port, in a thread. 0: whichever is free."""
        self._server = make_server(
            "127.0.0.1",
            port,
            self.app,
            threaded=True,
            request_handler=_Handler,
            ssl_context=ssl_context,
        )
        self.port = self._server.port
        # It looks so often, in seconds, whether it should stop.
        serve = partial(self._server.serve_forever, poll_interval=0.02)
        threading.Thread(target=serve, daemon=True).start()
        return self

    def hang_up(self) -> None:
        """Refuse connections, until it serves again."""
        self._server.shutdown()
        self._server.server_close()

    def stop(self) -> None:
        self.stopped.set()
        self.hang_up()

    def _make_app(self) -> Flask:
        app = Flask("homele")
        # A fault can break the connection; Flask must not make a 500 of that.
        app.config["PROPAGATE_EXCEPTIONS"] = True
        app.add_url_rule(f"{API_PATH}/customers", view_func=self._list)
        app.add_url_rule(f"{API_PATH}/customers/<customer_id>", view_func=self._detail)
        app.add_url_rule("/login", view_func=lambda: "<html>Log in</html>")
        for status, message in ((404, "Not Found."), (405, "Method Not Allowed.")):
            app.register_error_handler(status, partial(_refuse, status, message))
        app.before_request(self._before)
        app.after_request(self._after)
        return app

    def _before(self) -> None:
        time.sleep(self.latency)
        logged = LoggedRequest(
            request.method,
            request.environ["RAW_URI"],
            dict(request.headers),
        )
        request.environ["sandbox.logged"] = logged
        self.requests.append(logged)

    def _after(self, response: Response) -> Response:
        request.environ["sandbox.logged"].status = response.status_code
        response.headers.setdefault("Date", formatdate(self.clock(), usegmt=True))
        return response

    # The routes.

    def _list(self) -> Response:
        if self.meanwhile:
            self.meanwhile()
        self._list_requests += 1
        fault = self._fault(self._list_requests)
        return self._guarded(fault or self._ordinary)

    def _ordinary(self) -> Response:
        cursor = _read_cursor(request.args.get("cursor", ""))
        if self.fails_on_null and cursor and not cursor.activity:
            return error(500, "Server Error")
        if request.args.get("cursor") in self.failing_cursors:
            return error(500, "Server Error")
        return json_response(self.page())

    def _detail(self, customer_id: str) -> Response:
        if self.meanwhile_detail:
            self.meanwhile_detail()
        return self._guarded(lambda: self._customer(customer_id))

    def _customer(self, customer_id: str) -> Response:
        with self._lock:
            number = int(customer_id) if customer_id.isdecimal() else 0
            customer = self.customers.get(number)
            if customer is None:
                return error(404, "Not Found.")
            if fault := self.detail_faults.get(number):
                return fault()
            shown = self.render(customer) if self.render else customer
            return json_response({"success": True, "data": shown | details_of(shown)})

    def _fault(self, at: int) -> Callable[[], Response] | None:
        for fault in self.faults:
            if fault.at <= at < fault.at + fault.times:
                return fault.answer
        return None

    # Who may ask, and how often.

    def _guarded(self, answer: Callable[[], Response]) -> Response:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        token = self.tokens.get(secret) if scheme == "Bearer" else None
        if token is None:
            # Laravel's guard: a client that does not accept JSON first is a browser.
            accepted = request.headers.get("Accept", "").split(",")[0]
            if "json" not in accepted:
                return redirect("/login")  # type: ignore[return-value]
            return error(401, "Unauthenticated.")
        blocked, headers = self._throttle(token.user)
        if blocked:
            response = blocked
        elif "customer:read" not in token.permissions:
            response = error(403, "Insufficient permissions.")
        else:
            response = answer()
        response.headers.extend(headers)
        return response

    def _throttle(self, user: str) -> tuple[Response | None, dict[str, str]]:
        """Count a request as Laravel's ``throttle:60,1`` does.

        A fixed window that begins with its first request; what is rejected does not
        count.
        """
        if self.rate_limit is None:
            return None, {}
        with self._lock:
            return self._count(user, self.rate_limit)

    def _count(
        self, user: str, rate_limit: int
    ) -> tuple[Response | None, dict[str, str]]:
        now = self.clock()
        window = self._windows.get(user)
        if window is None or now >= window.began + self.window:
            window = self._windows[user] = Window(now)
        ends = window.began + self.window
        if window.used >= rate_limit:
            seconds = int(ends - now)
            blocked = error(429, "Too Many Attempts.", retry_after=seconds)
            return blocked, {
                "Retry-After": str(seconds),
                "X-RateLimit-Limit": str(rate_limit),
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(int(ends)),
            }
        window.used += 1
        return None, {
            "X-RateLimit-Limit": str(rate_limit),
            "X-RateLimit-Remaining": str(rate_limit - window.used),
        }

    # The list.

    def page(self) -> dict[str, Any]:
        """Give the ordinary answer to the request that is being served."""
        per_page = min(self.most, max(1, request.args.get("per_page", 25, type=int)))
        with self._lock:
            keys, rows = self._sorted()
            # Ascending, so that a page is what comes before its end.
            cursor = _read_cursor(request.args.get("cursor", ""))
            if cursor and (self.drops_nulls or self.drops_seconds):
                keys, rows = self._left(keys, rows, cursor.activity)
            start, end = _limits(keys, cursor, per_page)
            page = rows[start:end][::-1]
        return {
            "success": True,
            "data": [self.render(row) for row in page] if self.render else page,
            "meta": {
                "per_page": per_page,
                "next_cursor": self._cursor(page[-1]) if start > 0 else None,
                "prev_cursor": (
                    self._cursor(page[0], forward=False)
                    if page and end < len(keys)
                    else None
                ),
                "has_more": start > 0,
            },
        }

    def _left(
        self, keys: list[tuple[str, int]], rows: list[Customer], activity: str
    ) -> tuple[list[tuple[str, int]], list[Customer]]:
        """Return the customers that the faults of such a cursor do not skip."""
        second = activity[: len("2026-02-15T09:45:00")]
        left = [
            (key, row)
            for key, row in zip(keys, rows, strict=True)
            if not (self.drops_nulls and not (activity and row["last_activity_at"]))
            and not (self.drops_seconds and second and key[0].startswith(second))
        ]
        return [key for key, _ in left], [row for _, row in left]

    def _sorted(self) -> tuple[list[tuple[str, int]], list[Customer]]:
        """Give the customers that match, by last activity and id, ascending."""
        key = "&".join(
            sorted(
                f"{name}={value}"
                for name, value in request.args.items(multi=True)
                if name.startswith("filter[")
            )
        )
        if key not in self._lists:
            matching = filter(self._matches(), self.customers.values())
            rows = sorted(matching, key=self.key)
            self._lists[key] = ([self.key(row) for row in rows], rows)
        return self._lists[key]

    def _take_out(self, row: Customer) -> None:
        """Take a customer out of the list; lists with filters are made anew."""
        self._lists = {"": self._lists[""]} if "" in self._lists else {}
        for keys, rows in self._lists.values():
            at = bisect.bisect_left(keys, self.key(row))
            del keys[at], rows[at]

    def _put_in(self, row: Customer) -> None:
        self._lists = {"": self._lists[""]} if "" in self._lists else {}
        for keys, rows in self._lists.values():
            at = bisect.bisect_left(keys, self.key(row))
            keys.insert(at, self.key(row))
            rows.insert(at, row)

    def _cursor(self, row: Customer, *, forward: bool = True) -> str:
        """Write a cursor as Laravel does: unpadded URL-safe base64 of JSON."""
        value, customer_id = self.key(row)
        text = json.dumps(
            {
                "last_activity_at": value or None,
                "id": customer_id,
                "_pointsToNextItems": forward,
            }
        )
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _matches(self) -> Callable[[Customer], bool]:
        """Read the filters of a request."""
        tests: list[Callable[[Customer], bool]] = []
        asked = {k: v for k, v in request.args.items() if k not in self.ignored}
        if query := asked.get("filter[query]"):
            tests.append(lambda row: query.lower() in row["name"].lower())
        tests += [
            lambda row, name=name, ids=ids: _id(row[name]) in ids
            for name in ("lead_status", "owner", "lead_source")
            if (ids := request.args.getlist(f"filter[{name}.id][]"))
        ]
        if priority := asked.get("filter[priority.id]"):
            tests.append(lambda row: _id(row["priority"]) == priority)
        first, last = asked.get("filter[date_from]"), asked.get("filter[date_to]")
        if first or last:
            # As in SQL, null is neither before nor after any day.
            tests.append(lambda row: row["created_at"] is not None)
        if first:
            tests.append(
                lambda row: (
                    self._day(row) >= first + ("" if self.includes_from else "~")
                )
            )
        if last:
            until = last + ("~" if self.includes_to else "")
            tests.append(lambda row: self._day(row) < until)
        return lambda row: all(test(row) for test in tests)

    def _day(self, row: Customer) -> str:
        if row["created_at"] == "0000-00-00":
            return "0000-00-00"
        created_at = datetime.fromisoformat(row["created_at"])
        return created_at.astimezone(self.zone).date().isoformat()


class _Handler(WSGIRequestHandler):
    # Headers and body go out in two writes; with Nagle's algorithm the second waits.
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"

    def send_response(self, code: int, message: str | None = None) -> None:
        """Leave the Date header to the sandbox's own clock."""
        self.send_response_only(code, message)

    def connection_dropped(self, error: BaseException, environ: Any = None) -> None:
        """Close the connection that a fault broke."""
        del error, environ
        self.close_connection = True

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the sandbox has a log of its own."""


def _id(related: dict[str, Any] | None) -> str:
    return str(related["id"]) if related else ""


class Cursor(NamedTuple):
    """A cursor that can be read: where it points, and in which direction."""

    key: tuple[str, int]
    forward: bool

    @property
    def activity(self) -> str:
        """The last activity, empty where there is none."""
        return self.key[0].removeprefix("~")


def _read_cursor(cursor: str) -> Cursor | None:
    """Read a cursor. One that cannot be read is none at all (Laravel)."""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        values = json.loads(text)
        key = (values["last_activity_at"] or "", values["id"])
        return Cursor(key, values["_pointsToNextItems"])
    except (ValueError, KeyError, TypeError):
        return None


def _limits(
    keys: list[tuple[str, int]], cursor: Cursor | None, per_page: int
) -> tuple[int, int]:
    """Give where a page starts and ends among the keys, which ascend."""
    end = len(keys)
    if cursor and cursor.forward:
        end = bisect.bisect_left(keys, cursor.key)
    elif cursor:
        end = min(bisect.bisect_right(keys, cursor.key) + per_page, len(keys))
    return max(0, end - per_page), end


def _refuse(status: int, message: str, _: object) -> Response:
    return error(status, message)


def json_response(body: Any, status: int = 200) -> Response:
    """Answer in JSON, with all but ASCII escaped, as PHP does."""
    return Response(json.dumps(body), status, content_type="application/json")


def error(status: int, message: str, **more: Any) -> Response:
    """Answer with the API's envelope of an error."""
    return json_response({"success": False, "message": message, **more}, status)

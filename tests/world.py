"""One world for all tests: a company with a server and a clock, and what a run says."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from tests.sandbox.customers import Customer, make_customers, spell
from tests.singer import Output, catalog_of, sync

if TYPE_CHECKING:
    import pytest

    from tests.sandbox import Sandbox

TODAY = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)

FAULTS = ("drops_nulls", "drops_seconds", "fails_on_null")
# Where the database sorts those without an activity: last (MySQL), first (PostgreSQL).
NULLS = ("", "~")


def full_table(sandbox: Sandbox, *, scan_by: str) -> Output:
    """Run a full table that is to mark deleted customers."""
    return sync(
        sandbox,
        scan_by=scan_by,
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
    )


def is_complete(sandbox: Sandbox, *outputs: Output) -> bool:
    return {id_ for output in outputs for id_ in output.ids} == set(sandbox.customers)


def is_window(url: str) -> bool:
    return "date_from" in url or "date_to" in url


def days_of(url: str) -> tuple[date | None, date | None]:
    """Give the days that a URL asks for."""
    asked = dict(part.split("=") for part in url.partition("?")[2].split("&"))
    first, last = (
        asked.get(f"filter%5Bdate_{name}%5D", "") or None for name in ("from", "to")
    )
    return (
        date.fromisoformat(first) if first else None,
        date.fromisoformat(last) if last else None,
    )


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    # Of a tap without settings, which gives the catalog, the SDK says that they lack.
    return [
        r.getMessage()
        for r in caplog.records
        if r.levelname == "WARNING" and "Config validation" not in r.getMessage()
    ]


def summary(caplog: pytest.LogCaptureFixture) -> str:
    """Return the line that sums up the last run."""
    lines = caplog.messages
    last = max(at for at, line in enumerate(lines) if " and sent, in " in line)
    return lines[last]


def sorts_nulls(sandbox: Sandbox, nulls: str) -> None:
    sandbox.key = lambda row: (row["last_activity_at"] or nulls, row["id"])


def holds_days(sandbox: Sandbox, midnight: str) -> None:
    """Sort the list by days, and write a day as its midnight in some zone."""
    sandbox.render = lambda row: (
        row | {"last_activity_at": row["last_activity_at"][:10] + midnight}
    )
    sandbox.key = lambda row: (row["last_activity_at"][:10], row["id"])


class Company:
    """A company whose customers all have an activity, and a server with a clock.

    The cursor skips customers without an activity.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.now = TODAY
        self.next_id = 1
        self.outputs: list[Output] = []
        # Waiting takes time on the server, too.
        self.waited: list[float] = []
        sandbox.clock = lambda: self.now.timestamp() + sum(self.waited)
        sandbox.drops_nulls = True

    def add(
        self, count: int, day: datetime, *, active: bool = True, **values: Any
    ) -> list[Customer]:
        """Add customers that were created within an hour."""
        added = make_customers(count, seed=self.next_id)
        for at, row in enumerate(added):
            moment = spell(day + timedelta(seconds=at * 3600 / count))
            row |= {"id": self.next_id, "sequential_number": self.next_id}
            row |= {"created_at": moment, "updated_at": moment}
            # Each at a second of its own, so that no two share one.
            latest = spell(day + timedelta(seconds=at)) if active else None
            self.sandbox.add(row | {"last_activity_at": latest} | values)
            self.next_id += 1
        return added

    def grow(self, count: int, days: int) -> None:
        """Add customers, evenly in so many days until now."""
        for at in range(days):
            until = count * (at + 1) // days - count * at // days
            self.add(until, self.now - (days - at) * DAY + timedelta(hours=1))

    def run(self, **options: Any) -> Output:
        self.sandbox.requests.clear()
        state = self.outputs[-1].state if self.outputs else None
        output = sync(self.sandbox, **({"scan_by": "auto", "state": state} | options))
        self.outputs.append(output)
        return output

    @property
    def is_complete(self) -> bool:
        return is_complete(self.sandbox, *self.outputs)

    @property
    def windows(self) -> int:
        """How many requests the last run has spent on created dates."""
        return sum(map(is_window, self.sandbox.urls))


def full_table_of(company: Company, **options: Any) -> Output:
    return company.run(
        catalog=catalog_of("FULL_TABLE"),
        emit_activate_version_messages=True,
        **options,
    )

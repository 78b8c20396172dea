"""The values that the parts of a sync hand to each other, and to the state."""

import logging
import typing as t
from array import array
from collections.abc import Callable, Iterator
from datetime import date

import msgspec

from tap_homele.records import Record
from tap_homele.sync.times import Moment

# How the list is read.
CURSOR: t.Final = "cursor"
CREATED_DATE: t.Final = "created_date"
Mode: t.TypeAlias = t.Literal["cursor", "created_date"]


class Query(t.NamedTuple):
    """What to ask the list for: from which cursor on, created between which days."""

    cursor: str | None = None
    created_from: date | None = None
    created_to: date | None = None


class Position(msgspec.Struct, frozen=True):
    """Where the next run resumes: at a cursor, or below a created date."""

    cursor: str | None = None
    resume_before: date | None = None


class Page(t.NamedTuple):
    """One answer of the list.

    Attributes:
        records: The customers, as records that fit the schema.
        at: The server's clock when it answered, ISO 8601 UTC.
        next_cursor: Where the list goes on; None: it ends here.
        resume_at: Where a run can resume after this page; None: as before it.
        is_late: The list may have moved since it was read: the page has no place in its
            order, and others like those on it may have been passed by.
    """

    records: list[Record]
    at: str
    next_cursor: str | None = None
    resume_at: Position | None = None
    is_late: bool = False

    @property
    def activities(self) -> list[str]:
        """The last activities that are known."""
        return [at for row in self.records if (at := row["last_activity_at"])]

    def active_since(self, since: str) -> list[Record]:
        """Return the customers with an activity at or after a time, or planned."""
        return [r for r in self.records if (r["last_activity_at"] or "") >= since]

    def without(self, ids: t.Container[int]) -> "Page":
        """Return the page without the customers that have these ids."""
        return self._replace(records=[r for r in self.records if r["id"] not in ids])


# Sends a query and follows its cursor, one page after the other. Readings can overlap.
Fetch: t.TypeAlias = Callable[[Query], Iterator[Page]]


class Doubt(t.NamedTuple):
    """Why a customer may be missing, in a sentence. It holds deletes back."""

    sentence: str
    level: int = logging.WARNING


class Note(t.NamedTuple):
    """A sentence for the log."""

    sentence: str
    level: int = logging.INFO


# What stands in the state, beside the bookmark. All fields are always written: Meltano
# merges states key by key, so a key that is left out would keep its old value.


class Watermark(msgspec.Struct, frozen=True):
    """How far a run has seen: when it began, and the highest id."""

    started: Moment = ""
    max_id: int | None = None


class OpenScan(msgspec.Struct, frozen=True):
    """A full scan that has not ended, or one that is due; none without a ``list_id``.

    Attributes:
        list_id: Of the list that it reads.
        bookmark: Customers that changed since then are sent; empty: all.
        mode: How it reads the list.
        started: When it began, by the server's clock.
        newest: The newest time that the next bookmark may be made of.
        max_id: The highest id that its first run has seen.
        position: Where it resumes.
    """

    list_id: str = ""
    bookmark: Moment = ""
    mode: Mode = CURSOR
    started: Moment = ""
    newest: Moment = ""
    max_id: int = 0
    position: Position = Position()


class Comparison(msgspec.Struct, frozen=True):
    """How far the created dates were compared with what the cursor returns.

    Attributes:
        since: When the last scan began that compared what was new.
        compared_down_to: Where the last run stopped on its way down; None: at the end.
        is_complete: All created dates were compared at least once.
    """

    since: Moment = ""
    compared_down_to: date | None = None
    is_complete: bool = False


class Traits(msgspec.Struct, frozen=True):
    """What is known of a list.

    Attributes:
        is_sorted: The last full scan has seen that it is sorted by last activity.
        holds_days: Last activities are days without a time, or may be.
        has_undated: A customer without a created date was seen.
        has_crowded_day: More customers than fit on a page were created on one day.
        overlap: How many days a window of created dates asks for in addition, before
            and after it; None: not known yet.
    """

    is_sorted: bool = False
    holds_days: bool = False
    has_undated: bool = False
    has_crowded_day: bool = False
    overlap: tuple[int, int] | None = None


class CursorTrust(msgspec.Struct, frozen=True):
    """How far the cursor can be trusted.

    Attributes:
        failed_scans: How many full scans in a row had to leave it.
        sent_by_date: The last full scan read by created date, and all customers that it
            has read were sent, by that scan or before.
    """

    failed_scans: int = 0
    sent_by_date: bool = False


class Total(msgspec.Struct, frozen=True):
    """How many customers a full scan has seen, and their highest id."""

    customers: int | None = None
    max_id: int = 0


class Saved(msgspec.Struct, frozen=True):
    """What the runs before have left in the state for this one.

    Attributes:
        list_id: Of the list that the bookmark is for; empty: there was none.
        last_full_scan: Customers with a higher id are new for a full scan.
        last_run: The same for a quick run, quick runs included.
        open_scan: The full scan that has not ended.
        comparison: How far created dates were compared.
        traits: What is known of the list.
        cursor_trust: How far its cursor can be trusted.
        total: How many customers it had.
    """

    list_id: str = ""
    last_full_scan: Watermark = Watermark()
    last_run: Watermark = Watermark()
    open_scan: OpenScan = OpenScan()
    comparison: Comparison = Comparison()
    traits: Traits = Traits()
    cursor_trust: CursorTrust = CursorTrust()
    total: Total = Total()


class Learned(t.NamedTuple):
    """What a run has learned of the list, at its end.

    Attributes:
        ids: The ids that have come.
        traits: What is known of the list now.
        comparison: How far created dates are compared now.
        counts: The number of ids says how many customers there are.
        resends_next: The next run sends all customers.
    """

    ids: "array[int]"
    traits: Traits
    comparison: Comparison
    counts: bool = True
    resends_next: bool = False

"""One scan of the list: what it starts from, what it has seen, what counts as changed.

A sync reads the whole list, because Homele can neither sort nor filter it by
``updated_at`` (the vendor's document). All times are UTC in the one spelling of
``records.utc``, so they compare as strings.
"""

from __future__ import annotations

import contextlib
import logging
import typing as t
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import msgspec

from tap_homele.records import utc_now

if t.TYPE_CHECKING:
    from tap_homele.records import Record

# A change becomes visible when its transaction commits, later than the time it carries:
# what was written shortly before a scan may be missing from it.
OVERLAP = timedelta(minutes=5)

# From the beginning of a day to its last microsecond.
ALMOST_A_DAY = timedelta(days=1, microseconds=-1)

# How ``records.utc`` spells the beginning of a day.
MIDNIGHT = "T00:00:00+00:00"

# A time as ``records.utc`` spells it.
Moment: t.TypeAlias = t.Annotated[
    str, msgspec.Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00\Z")
]

logger = logging.getLogger(__name__)


class Query(t.NamedTuple):
    """What to ask the list for: from which cursor on, created between which days."""

    cursor: str | None = None
    created_from: date | None = None
    created_to: date | None = None


class Page(t.NamedTuple):
    """One answer of the list.

    Attributes:
        records: The customers, as records that fit the schema.
        at: The server's clock when it answered, UTC.
        next_cursor: Where the list goes on; None after the last page.
        created_before: By created date: all customers created on this day or later have
            been read.
    """

    records: list[Record]
    at: str
    next_cursor: str | None = None
    created_before: date | None = None

    @property
    def activities(self) -> list[str]:
        """The last activities that are known."""
        return [at for r in self.records if (at := r["last_activity_at"])]

    @property
    def has_days_only(self) -> bool:
        """Whether the last activities are days without a time.

        The cursor in the vendor's document holds a day, so the list may do so too. Then
        all have the same time of the day, midnight in some zone.
        """
        activities = self.activities
        days = {at[: len("2026-02-15")] for at in activities}
        times = {at[len("2026-02-15") :] for at in activities}
        return times == {MIDNIGHT} or (len(times) == 1 and len(days) > 1)

    def active_since(self, since: str) -> list[Record]:
        """Return the customers that may have been active since a time.

        A day lasts until its end.
        """
        if self.has_days_only:
            since = earlier(since, ALMOST_A_DAY)
        return [r for r in self.records if (r["last_activity_at"] or "") >= since]


# Sends a query and follows its cursor, one page after the other.
Read: t.TypeAlias = t.Callable[[Query], t.Iterator[Page]]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a scan has seen so far.

    Attributes:
        started: When it began, by the server's clock; None before the first page.
        newest: The newest ``updated_at``.
        highest_id: The highest id.
        undated: There are customers without a created date.
    """

    started: Moment | None = None
    newest: Moment | None = None
    highest_id: int = 0
    undated: bool = False

    def after(self, page: Page) -> Progress:
        """Return the progress after a page."""
        # The server's clock: a local one that runs ahead would move the bookmark past
        # changes that are not visible yet. Of the two, the earlier is safe.
        now = utc_now().isoformat(timespec="seconds")
        updates = [at for r in page.records if (at := r["updated_at"])]
        return Progress(
            started=self.started or min(page.at, now),
            newest=max(filter(None, (self.newest, *updates)), default=None),
            highest_id=max([self.highest_id, *(r["id"] for r in page.records)]),
            undated=self.undated or any(not r["created_at"] for r in page.records),
        )


class Checkpoint(Progress, frozen=True, kw_only=True):
    """Where an interrupted scan resumes. It stands in the state after each page.

    Attributes:
        fingerprint: Of the list that was read.
        bookmark: That of the scan; None in a full refresh.
        by_created_date: How the list was read.
        cursor: The next page; None by created date, and before the second page.
        created_before: As in ``Page``.
    """

    started: Moment
    fingerprint: str
    bookmark: Moment | None
    by_created_date: bool
    cursor: t.Annotated[str, msgspec.Meta(min_length=1)] | None
    created_before: date | None


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """How far a cross-check of all created dates is. It stands in the state.

    Attributes:
        began: When, by the server's clock.
        created_before: Customers created on this day or later have been compared.
        compared: How many those are.
        done: All created dates have been compared.
    """

    began: Moment
    created_before: date | None = None
    compared: int = 0
    done: bool = False


@dataclass(kw_only=True)
class Scan:
    """One scan, from its start to its end.

    Attributes:
        fingerprint: Of the list: its address, its filters, the selected streams.
        first_bookmark: The setting ``start_date``, from which a first scan starts.
        created_from: The first created date that the filters let through.
        created_to: The last one.
        is_cross_checked: Compare what the cursor returns with the created dates.
        announces_deletes: The target deletes what this scan does not send.
        last_highest_id: The highest id that the last scan saw; None: not known.
        compared_until: Customers created before then have been compared, at least with
            the first scan after it; None: none have.
        resumes: Where it resumes; None: it reads from the top.
        bookmark: Customers that changed since then are sent; None: all.
        by_created_date: Read by created date, without the cursor.
        margins: How many days a window of created dates asks for in addition, before
            and after it; None: not known yet.
        round: How far the cross-check is.
        progress: What it has seen so far.
        gaps: Why a customer may be missing, in words, for the summary.
    """

    # The settings.
    fingerprint: str
    first_bookmark: str | None = None
    created_from: date | None = None
    created_to: date | None = None
    is_cross_checked: bool = False
    announces_deletes: bool = False
    # What earlier runs have left in the state.
    last_highest_id: int | None = None
    resumes: Checkpoint | None = None
    # What changes while the list is read.
    bookmark: str | None = None
    compared_until: str | None = None
    by_created_date: bool = False
    margins: tuple[int, int] | None = None
    round: Round | None = None
    progress: Progress = Progress()  # noqa: RUF009 - it is immutable
    gaps: list[str] = field(default_factory=list)

    def changed(self, page: Page) -> list[Record]:
        """Return the customers of a page that are to be sent.

        A new activity changes the record without an update of it. An import can keep
        the dates of an older system, so that only its new id tells. A customer without
        a readable ``updated_at`` may have changed.
        """
        bookmark, last_id = self.bookmark, self.last_highest_id
        if bookmark is None:
            return page.records
        active = {record["id"] for record in page.active_since(bookmark)}
        return [
            record
            for record in page.records
            if (record["updated_at"] or bookmark) >= bookmark
            or record["id"] in active
            or (last_id is not None and record["id"] > last_id)
        ]

    @property
    def signpost(self) -> str:
        """The upper limit of the next bookmark; empty before the first page."""
        started = self.progress.started
        return earlier(started, OVERLAP) if started else ""

    @property
    def next_bookmark(self) -> str | None:
        """The newest ``updated_at``. The SDK cuts it to the signpost.

        A customer that is sent for its activity alone may have been updated long ago,
        and must not take the bookmark back.
        """
        return max(filter(None, (self.progress.newest, self.bookmark)), default=None)

    def warn(self, sentence: str) -> None:
        """Log why a customer may be missing, and keep it for the summary."""
        logger.warning(sentence)
        self.gaps.append(sentence.rstrip("."))

    def leave_cursor(self, reason: str) -> None:
        """Read by created date from now on. Send all: any may have been skipped."""
        logger.warning("%s Reading the list by created date, from now on.", reason)
        self.gaps.clear()
        self.by_created_date = True
        self.bookmark = self.first_bookmark

    def checkpoint(self, page: Page) -> Checkpoint:
        """Make the checkpoint from which the next run resumes after a page."""
        return Checkpoint(
            started=self.progress.started or "",
            newest=self.progress.newest,
            highest_id=self.progress.highest_id,
            undated=self.progress.undated,
            fingerprint=self.fingerprint,
            bookmark=self.bookmark,
            by_created_date=self.by_created_date,
            cursor=page.next_cursor,
            created_before=page.created_before,
        )


def earlier(moment: str, span: timedelta) -> str:
    """Return the time that is so much earlier; the same, if there is none."""
    with contextlib.suppress(OverflowError):
        return (datetime.fromisoformat(moment) - span).isoformat()
    return moment


def soon_after(now: str) -> str:
    """Return the latest time that can be a movement: what is later is planned.

    Clocks differ by less than ``OVERLAP``.
    """
    return earlier(now, -OVERLAP)

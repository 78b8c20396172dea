"""One scan of the list: what it starts from, what it has seen, what counts as changed.

A sync reads the whole list, because Homele can neither sort nor filter it by
``updated_at`` (the vendor's document). What its times look like: ``times.py``.
"""

import logging
import typing as t
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import msgspec

from tap_homele.records import Record, utc_now
from tap_homele.sync.times import MIDNIGHT, OVERLAP, Moment, earlier, soon_after

# From the beginning of a day to its last microsecond.
ALMOST_A_DAY = timedelta(days=1, microseconds=-1)

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
        next_cursor: Where the list goes on, and where a run can resume; None: nowhere.
        created_before: By created date: all customers created on this day or later have
            been read, and a run can resume before it.
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
        times = {at[len("2026-02-15") :] for at in self.activities}
        return len(times) == 1 and bool(MIDNIGHT.fullmatch(times.pop()))

    def active_since(self, since: str) -> list[Record]:
        """Return the customers that may have been active since a time.

        A day without a time may stand for any moment of it.
        """
        if self.has_days_only:
            since = earlier(since, ALMOST_A_DAY)
        return [r for r in self.records if (r["last_activity_at"] or "") >= since]


# Sends a query and follows its cursor, one page after the other.
Read: t.TypeAlias = Callable[[Query], Iterator[Page]]


class Checkpoint(msgspec.Struct, kw_only=True):
    """How far a scan is. It stands in the state after each page, to be resumed.

    Attributes:
        fingerprint: Of the list: its address, its filters, the selected streams.
        bookmark: Customers that changed since then are sent; empty: all.
        by_created_date: The list is read by created date, without the cursor.
        started: When the scan began, by the server's clock.
        newest: The newest ``updated_at`` that was seen.
        highest_id: The highest id that was seen before an interruption.
        cursor: As in ``Page``, of the last page that had one.
        created_before: The same.
    """

    fingerprint: str
    bookmark: Moment = ""
    by_created_date: bool = False
    started: Moment = ""
    newest: Moment = ""
    highest_id: int = 0
    cursor: str | None = None
    created_before: date | None = None


class Round(msgspec.Struct, kw_only=True):
    """How far a cross-check of all created dates is.

    Attributes:
        began: When, by the server's clock.
        created_before: Customers created on this day or later have been compared.
        compared: How many those are.
        done: All created dates have been compared.
    """

    began: Moment = ""
    created_before: date | None = None
    compared: int = 0
    done: bool = False


class Memory(msgspec.Struct, kw_only=True):
    """What a run leaves in the state for the next ones, beside bookmark and checkpoint.

    Attributes:
        fingerprint: Of the list that the bookmark is for.
        highest_id: The highest id that the last complete scan saw; None: not known.
        scan_by: ``created_date``, if the list was read so.
        undated: A customer without a created date was seen; it stays so for this list.
        full_scan: When the last full scan began, if the list was sorted by activity, so
            that quick runs can follow.
        covered_until: When the last complete run began, a quick one too.
        covered_id: The highest id that complete runs have seen, quick ones too.
        compared_until: The start of the last scan that compared what was new, or had no
            need to. Customers created since then are compared first.
        margins: How many days a window of created dates asks for in addition, before
            and after it; None: not known yet.
        cross_check: How far the cross-check is.
    """

    fingerprint: str | None = None
    highest_id: int | None = None
    scan_by: str | None = None
    undated: bool = False
    full_scan: Moment = ""
    covered_until: Moment = ""
    covered_id: int | None = None
    compared_until: Moment = ""
    margins: tuple[int, int] | None = None
    cross_check: Round = msgspec.field(default_factory=Round)


@dataclass(kw_only=True)
class Scan:
    """One scan, from its start to its end.

    Attributes:
        checkpoint: How far it is.
        memory: What earlier runs have left in the state, and this one will.
        resumes: The checkpoint that it resumes from; None: it reads from the top.
        first_bookmark: The setting ``start_date``, from which a first scan starts.
        created_from: The first created date that the filters let through.
        created_to: The last one.
        is_incremental: There is a bookmark, and a checkpoint to resume from.
        is_cross_checked: Compare what the cursor returns with the created dates.
        announces_deletes: The target deletes what this scan does not send.
        full_scan_every: For so long after a full scan began, runs are quick ones.
        quick_since: A quick run reads what was active or created since then; empty: a
            full scan.
        requests_left: Tells how many requests the API still takes in this minute; None
            if it does not say.
        gaps: Why a customer may be missing, in words, for the summary.
        read: How many customers were read.
        sent: How many of them had changed.
        edited: How many of those quick runs would have left to a full scan.
    """

    checkpoint: Checkpoint
    memory: Memory = field(default_factory=Memory)
    resumes: Checkpoint | None = None
    first_bookmark: str = ""
    created_from: date | None = None
    created_to: date | None = None
    is_incremental: bool = True
    is_cross_checked: bool = False
    announces_deletes: bool = False
    full_scan_every: timedelta = timedelta(0)
    quick_since: str = ""
    requests_left: Callable[[], int | None] = lambda: None
    gaps: list[str] = field(default_factory=list)
    read: int = 0
    sent: int = 0
    edited: int = 0

    def see(self, page: Page) -> None:
        """Take note of a page."""
        # The server's clock: a local one that runs ahead would move the bookmark past
        # changes that are not visible yet. Of the two, the earlier is safe.
        now = utc_now().isoformat(timespec="seconds")
        so_far, rows = self.checkpoint, page.records
        so_far.started = so_far.started or min(page.at, now)
        so_far.newest = max([so_far.newest, *(r["updated_at"] or "" for r in rows)])
        if not self.resumes:
            # A customer that came after the interruption may be on a page before it.
            so_far.highest_id = max([so_far.highest_id, *(r["id"] for r in rows)])
        self.memory.undated |= not all(r["created_at"] for r in rows)

    def changed(self, page: Page) -> list[Record]:
        """Return the customers of a page that are to be sent.

        A new activity changes the record without an update of it. An import can keep
        the dates of an older system, so that only its new id tells. A customer without
        a readable ``updated_at`` may have changed.
        """
        since, last_id = self.checkpoint.bookmark, self.memory.highest_id
        if self.quick_since:
            since, last_id = self.quick_since, self.memory.covered_id
        if not since:
            return page.records
        active = {record["id"] for record in page.active_since(since)}
        return [
            record
            for record in page.records
            if (record["updated_at"] or since) >= since
            or record["id"] in active
            or (last_id is not None and record["id"] > last_id)
        ]

    def count(self, page: Page, changed: list[Record]) -> None:
        """Count the customers of a page.

        Quick runs would have left to a full scan those that were neither active nor
        created since the bookmark, imports say, or were edited later; by more than
        ``OVERLAP``, or a quick run had seen the edit. Who was edited at the bookmark
        itself comes again.
        """
        self.read += len(page.records)
        self.sent += len(changed)
        bookmark = self.checkpoint.bookmark
        for record in changed if bookmark else ():
            edited = record["updated_at"] or ""
            seen = max(record["last_activity_at"] or "", record["created_at"] or "")
            is_late = soon_after(seen) < max(edited, bookmark)
            self.edited += is_late and edited != bookmark

    @property
    def signpost(self) -> str:
        """The upper limit of the next bookmark; empty before the first page."""
        return earlier(self.checkpoint.started, OVERLAP)

    @property
    def next_bookmark(self) -> str:
        """The newest ``updated_at``. The SDK cuts it to the signpost.

        A quick run has not seen all that was updated: it leaves the bookmark alone.
        A customer that is sent for its activity alone may have been updated long ago,
        and must not take the bookmark back.
        """
        newest = "" if self.quick_since else self.checkpoint.newest
        return max(newest, self.checkpoint.bookmark)

    def warn(self, sentence: str) -> None:
        """Log why a customer may be missing, and keep it for the summary."""
        logger.warning(sentence)
        self.gaps.append(sentence.rstrip("."))

    def restart(self) -> None:
        """Forget what was counted and found: all customers are read again."""
        self.gaps.clear()
        self.read = self.sent = self.edited = 0

    def leave_cursor(self, reason: str) -> None:
        """Read by created date from now on. Send all: any may have been skipped.

        What the cursor may have missed does not matter any more.
        """
        logger.warning("%s Reading the list by created date, from now on.", reason)
        self.restart()
        self.checkpoint.by_created_date = True
        self.checkpoint.bookmark = self.first_bookmark

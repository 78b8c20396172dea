"""Read the list by its cursor, then its head again until it holds still.

Homele sorts the list by ``last_activity_at``, newest first (the cursor in its document
holds that field). A customer with a new activity jumps to the top. While a sync works
its way down, such a customer can jump over it and be missed. So after the last page the
sync reads the head of the list again, down to where nothing can have moved.
"""

from __future__ import annotations

import logging
import typing as t
from datetime import timedelta

from tap_homele.errors import PageError
from tap_homele.sync.scan import MIDNIGHT, OVERLAP, Progress, Query, earlier

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_homele.records import Record
    from tap_homele.sync.scan import Page, Read, Scan

# Activities become visible when their transaction commits, shortly after the time they
# carry. Shorter than OVERLAP, so that a busy list comes to rest.
COMMIT_LAG = timedelta(minutes=1)

# After so many rereads the list is busier than we are fast.
MAX_REREADS = 10

# The parts of a time that are its day, and all until its second.
DAY, SECOND = slice(len("2026-02-15")), slice(len("2026-02-15T09:45:00"))

logger = logging.getLogger(__name__)


def by_cursor(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield every page of the list, and then the customers that moved meanwhile.

    Sets ``scan.gap`` if a customer can have been missed.
    """
    pages, last, in_order, holds_days = 0, "", True, True
    # The times of the customers that were active since the scan began.
    sent: dict[int, tuple[str, str]] = {}
    for page in from_checkpoint(read, scan):
        pages += 1
        activities = page.activities
        # The list may be sorted by parts of a second that the API does not write.
        seconds = [at[SECOND] for at in (last, *activities) if at]
        in_order &= seconds == sorted(seconds, reverse=True)
        last = activities[-1] if activities else last
        holds_days &= page.holds_days
        since = scan.signpost or earlier(page.at, OVERLAP)
        sent |= {r["id"]: times_of(r) for r in page.active_since(since)}
        yield page
    if pages == 1 and not scan.resumes:
        return  # one answer: nothing moved while it was read
    if not in_order:
        scan.warn(
            "The list does not run by last activity, as expected: a customer that "
            "moved while it was read arrives with the next run only."
        )
        return
    for page in reread_head(read, scan, holds_days=holds_days and last > ""):
        moved = [r for r in page.records if sent.get(r["id"]) != times_of(r)]
        sent |= {r["id"]: times_of(r) for r in moved}
        # Without the cursor: the next run resumes where the list itself was left.
        yield page._replace(records=moved, next_cursor=None)


def from_checkpoint(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the pages from the checkpoint on; from the top if there is none.

    A checkpoint whose page cannot be read must not hold up every run to come: then the
    list is read from the top.
    """
    if scan.resumes:
        pages = read(Query(cursor=scan.resumes.cursor))
        try:
            page = next(pages)
        except PageError as error:
            reason = str(error)
        else:
            if page.records or page.next_cursor:
                yield page
                yield from pages
                return
            reason = "the list ended there"
        logger.info(
            "Not resuming the scan that was interrupted: its next page cannot be read "
            "(%s). Reading from the top of the list.",
            reason,
        )
        scan.progress = Progress()
    yield from read(Query())


def reread_head(read: Read, scan: Scan, *, holds_days: bool) -> Iterator[Page]:
    """Yield the customers that were active since the scan began.

    Repeats until those that moved fit on one page, because one answer cannot move. In a
    list that holds days nothing tells what moved within a day: it is read once more,
    down to the day before, which may not be over in another time zone.
    """
    since = scan.signpost
    if holds_days:
        scan.gap = "The list holds days, so what moved while it was read is not known"
        since = earlier(since, timedelta(days=1))[DAY] + MIDNIGHT
    for _ in range(1 if holds_days else MAX_REREADS):
        started, has_moved, pages = "", False, 0
        for page in read_head(read, since):
            started = started or page.at
            # An activity in the future keeps its place: it is no sign of movement.
            future = earlier(started, -OVERLAP)
            has_moved |= any(at <= future for at in page.activities)
            pages += has_moved
            yield page
        if pages <= 1:
            return
        since = earlier(started, COMMIT_LAG)
    if not holds_days:
        scan.warn(
            "Customers move in the list faster than it can be read: some may arrive "
            "with the next run only."
        )


def read_head(read: Read, since: str) -> Iterator[Page]:
    """Yield the customers that were active since a time, from the top of the list.

    Ends at the first page that reaches below that time. Customers without an activity
    say nothing: databases sort them first, last, or by another date.
    """
    for page in read(Query()):
        is_older = any("" < page.active_until(r) < since for r in page.records)
        yield page._replace(records=page.active_since(since))
        if is_older:
            return


def times_of(record: Record) -> tuple[str, str]:
    """Return the times that tell whether a customer has changed."""
    return record["updated_at"] or "", record["last_activity_at"] or ""

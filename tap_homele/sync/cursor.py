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
from tap_homele.sync.scan import MIDNIGHT, OVERLAP, Progress, Query, earlier, soon_after

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_homele.records import Record
    from tap_homele.sync.scan import Page, Read, Scan

# Activities become visible when their transaction commits, shortly after the time they
# carry. Shorter than OVERLAP, so that a busy list comes to rest.
COMMIT_LAG = timedelta(minutes=1)

# After so many rereads the list is busier than we are fast.
MAX_REREADS = 10

logger = logging.getLogger(__name__)


def by_cursor(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield every page of the list, and then the customers that moved meanwhile.

    Adds to ``scan.gaps`` if a customer can have been missed.
    """
    page_count = 0
    last_activity = ""
    is_sorted = has_days_only = True
    # The times of the customers that were active since the scan began, as last seen.
    seen: dict[int, tuple[str, str]] = {}
    for page in from_checkpoint(read, scan):
        page_count += 1
        activities = page.activities
        # The list may be sorted by parts of a second that the API does not write.
        seconds = [to_second(at) for at in (last_activity, *activities) if at]
        is_sorted &= seconds == sorted(seconds, reverse=True)
        has_days_only &= page.has_days_only or not activities
        last_activity = activities[-1] if activities else last_activity
        since = scan.signpost or earlier(page.at, OVERLAP)
        seen |= {r["id"]: times_of(r) for r in page.active_since(since)}
        yield page
    if page_count == 1 and not scan.resumes:
        return  # one answer: nothing moved while it was read
    if not is_sorted:
        scan.warn(
            "The list is not sorted by last activity, as expected: a customer that "
            "moved while it was read arrives with the next run only."
        )
        return
    has_days_only &= last_activity > ""
    for page in reread_days(read, scan) if has_days_only else reread_head(read, scan):
        moved = [r for r in page.records if seen.get(r["id"]) != times_of(r)]
        seen |= {r["id"]: times_of(r) for r in moved}
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
        scan.resumes, scan.progress = None, Progress(undated=scan.progress.undated)
    yield from read(Query())


def reread_head(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the customers that were active since the scan began.

    Repeats until those that moved fit on one page, because one answer cannot move.
    """
    since = scan.signpost
    for _ in range(MAX_REREADS):
        started = ""
        has_moved = False
        page_count = 0
        for page in read_head(read, since):
            started = started or page.at
            latest = soon_after(started)  # what is planned keeps its place
            has_moved |= any(at <= latest for at in page.activities)
            page_count += has_moved
            yield page
        if page_count <= 1:
            return
        since = earlier(started, COMMIT_LAG)
    scan.warn(
        "Customers move in the list faster than it can be read: some may arrive with "
        "the next run only."
    )


def reread_days(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the customers that were active yesterday or today, of a list of days.

    Nothing tells what moved within a day, so there is no point in repeating. Yesterday
    may not be over in another time zone.
    """
    scan.gaps.append(
        "The list holds days, so what moved while it was read is not known"
    )
    yesterday = earlier(scan.signpost, timedelta(days=1))
    yield from read_head(read, yesterday[: len("2026-02-15")] + MIDNIGHT)


def read_head(read: Read, since: str) -> Iterator[Page]:
    """Yield the customers that were active since a time, from the top of the list.

    Ends at the first page that reaches below that time. Customers without an activity
    say nothing: databases sort them first, last, or by another date.
    """
    for page in read(Query()):
        active = page.active_since(since)
        is_older = len(page.activities) > len(active)
        yield page._replace(records=active)
        if is_older:
            return


def times_of(record: Record) -> tuple[str, str]:
    """Return the times that tell whether a customer has changed."""
    return record["updated_at"] or "", record["last_activity_at"] or ""


def to_second(moment: str) -> str:
    """Return a time without the parts of its second."""
    return moment[: len("2026-02-15T09:45:00")]

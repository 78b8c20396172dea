"""Read the list by its cursor, then its head again until it holds still.

Homele sorts the list by ``last_activity_at``, newest first (the cursor in its document
holds that field). A customer with a new activity jumps to the top. While a sync works
its way down, such a customer can jump over it and be missed. So after the last page the
sync reads the head of the list again, down to where nothing can have moved.
"""

import itertools
import logging
from collections.abc import Iterator
from datetime import timedelta

from tap_homele.errors import PageError
from tap_homele.records import Record
from tap_homele.sync.scan import Checkpoint, Page, Query, Read, Scan
from tap_homele.sync.times import OVERLAP, earlier, soon_after, to_day, to_second

# Activities become visible when their transaction commits, shortly after the time they
# carry. Shorter than OVERLAP, or a busy list would never come to rest.
COMMIT_LAG = timedelta(minutes=1)

# After so many rereads the list is busier than we are fast.
MAX_REREADS = 10

UNSORTED = "The list is not sorted by last activity: who moved may come a run later."
NOT_RESUMING = "Not resuming the interrupted scan: %s. Reading the list from its top."

logger = logging.getLogger(__name__)


def by_cursor(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield every page of the list, and then the customers that moved meanwhile.

    Adds to ``scan.gaps`` if a customer can have been missed.
    """
    page_count, last_activity = 0, ""
    is_sorted, has_times = True, False
    # The times of the customers that were active since the scan began, as last seen.
    seen: dict[int, tuple[str, str]] = {}
    for page in from_checkpoint(read, scan):
        page_count += 1
        activities = page.activities
        # The list may be sorted by parts of a second that the API does not write.
        seconds = [to_second(at) for at in (last_activity, *activities) if at]
        is_sorted &= seconds == sorted(seconds, reverse=True)
        has_times |= bool(activities) and not page.has_days_only
        last_activity = activities[-1] if activities else last_activity
        # The first page has yet to give the scan its start.
        since = scan.signpost or earlier(page.at, OVERLAP)
        seen |= {r["id"]: times_of(r) for r in page.active_since(since)}
        yield page
    has_days = last_activity > "" and not has_times
    # A resumed scan has not seen the order of the whole list.
    shows_order = is_sorted and not has_days and not scan.resumes
    scan.memory.full_scan = scan.checkpoint.started if shows_order else ""
    if page_count == 1 and not scan.resumes:
        return  # one answer: nothing moved while it was read
    if not is_sorted:
        scan.warn(UNSORTED)
        return
    since, head = scan.signpost, reread_head(read, scan, scan.signpost)
    if has_days:
        # Nothing tells what moved within a day, so there is no point in repeating. The
        # day before may not be over in another time zone.
        since = to_day(earlier(since, timedelta(days=1)))
        head = read_head(read, since)
        scan.gaps.append("The list holds days: what moved while it was read is unknown")
    for page in head:
        moved = page._replace(records=page.active_since(since))
        yield without_seen(moved, seen)


def from_checkpoint(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the pages from the checkpoint on; from the top if there is none.

    A checkpoint whose page cannot be read must not hold up every run to come: then the
    list is read from the top.
    """
    if scan.resumes:
        pages = read(Query(cursor=scan.resumes.cursor))
        page, reason = None, "the list ended there"
        try:
            page = next(pages)
        except PageError as error:
            reason = str(error)
        if page and (page.records or page.next_cursor):
            yield from itertools.chain([page], pages)
            return
        logger.info(NOT_RESUMING, f"its next page cannot be read ({reason})")
        was, scan.resumes = scan.resumes, None
        scan.checkpoint = Checkpoint(fingerprint=was.fingerprint, bookmark=was.bookmark)
    yield from read(Query())


def reread_head(read: Read, scan: Scan, since: str) -> Iterator[Page]:
    """Yield the head of the list until it holds still.

    Repeats until those that moved are on one page: one answer is a snapshot. Counts the
    pages from the first one with a movement on; what is planned keeps its place.

    Args:
        read: Sends a query and follows its cursor.
        scan: Takes note of a list that does not hold still.
        since: What was active since this time is in the head, at first.
    """
    for _ in range(MAX_REREADS):
        started, has_moved, page_count = "", False, 0
        for page in read_head(read, since):
            started = started or page.at
            has_moved |= any(at <= soon_after(started) for at in page.activities)
            page_count += has_moved
            yield page
        if page_count <= 1:
            return
        since = earlier(started, COMMIT_LAG)
    scan.warn(
        "Customers move in the list faster than it can be read: some may arrive with "
        "the next run only."
    )


def read_head(read: Read, since: str) -> Iterator[Page]:
    """Yield the pages from the top of the list to one that reaches below a time.

    Customers without an activity say nothing: databases sort them first, last, or by
    another date.
    """
    for page in read(Query()):
        yield page
        if len(page.activities) > len(page.active_since(since)):
            return


def without_seen(page: Page, seen: dict[int, tuple[str, str]]) -> Page:
    """Return a page without the customers that have come with the same times.

    And without its cursor: no run resumes in the head of the list.

    Args:
        page: Any.
        seen: The times of those that have come, by id. What is new is added to it.
    """
    records = [r for r in page.records if seen.get(r["id"]) != times_of(r)]
    seen |= {r["id"]: times_of(r) for r in records}
    return page._replace(records=records, next_cursor=None)


def times_of(record: Record) -> tuple[str, str]:
    """Return the times that tell whether a customer has changed."""
    return record["updated_at"] or "", record["last_activity_at"] or ""

"""Read the list by its cursor, then its head again until it holds still.

Homele sorts the list by ``last_activity_at``, newest first (the cursor in its document
holds that field). A customer with a new activity jumps to the top. While a sync works
its way down, such a customer can jump over it and be missed. So after the last page the
sync reads the head of the list again, down to where nothing can have moved.
"""

from __future__ import annotations

import logging
import typing as t
from dataclasses import dataclass
from datetime import timedelta

from tap_homele.sync.scan import (
    MIDNIGHT,
    OVERLAP,
    Page,
    PageError,
    Query,
    Read,
    Scan,
    earlier,
)

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_homele.records import Record

# Activities become visible when their transaction commits, shortly after the time they
# carry. Shorter than OVERLAP, so that a busy list comes to rest.
COMMIT_LAG = timedelta(minutes=1)

# After so many rereads the list is busier than we are fast.
MAX_REREADS = 10

# The part of a time until its second.
SECOND = slice(len("2026-02-15T09:45:00"))

Times: t.TypeAlias = tuple[str | None, str | None]

logger = logging.getLogger(__name__)


def by_cursor(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield every page of the list, and then the customers that moved meanwhile.

    Sets ``scan.complete`` to False if a customer can have been missed.
    """
    order = Order()
    # The customers that were active since the scan began, as they were yielded.
    yielded: dict[int, Times] = {}
    for page in from_checkpoint(read, scan):
        order.add(page)
        since = scan.signpost or earlier(page.at, OVERLAP)
        yielded |= {r["id"]: times_of(r) for r in page.active_since(since)}
        yield page
    if order.pages == 1 and not scan.resumes:
        return  # one answer: nothing moved while it was read
    if not order.is_by_activity:
        scan.complete = False
        logger.warning(
            "The list does not run by last activity, as expected: a customer that "
            "moved while it was read arrives with the next run only."
        )
        return
    for page in read_days(read, scan) if order.holds_days else reread_head(read, scan):
        new = [r for r in page.records if yielded.get(r["id"]) != times_of(r)]
        yielded |= {r["id"]: times_of(r) for r in new}
        # Without the cursor: the next run resumes where the list itself was left.
        yield page._replace(records=new, next_cursor=None)


@dataclass
class Order:
    """The order of the list, as far as it has been read.

    Attributes:
        pages: How many pages that is.
        is_by_activity: It runs by last activity, newest first, to the second.
        holds_days: Its last activities are days without a time.
    """

    pages: int = 0
    is_by_activity: bool = True
    holds_days: bool = False
    _last: str = ""

    def add(self, page: Page) -> None:
        """Take note of a page."""
        self.pages += 1
        if activities := page.activities:
            self.holds_days = page.holds_days and (self.holds_days or not self._last)
            # The list may be sorted by parts of a second that the API does not write.
            seconds = [at[SECOND] for at in (self._last, *activities) if at]
            self.is_by_activity &= seconds == sorted(seconds, reverse=True)
            self._last = activities[-1]


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
        scan.restart()
    yield from read(Query())


def reread_head(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the customers that were active since the scan began.

    Repeats until those that moved fit on one page, because one answer cannot move.
    """
    since = scan.signpost
    for _ in range(MAX_REREADS):
        started, has_moved = "", False
        pages = 0
        for page in read_head(read, since):
            started = started or page.at
            # An activity in the future keeps its place: it is no sign of movement.
            future = earlier(started, -OVERLAP)
            has_moved |= any(r["last_activity_at"] <= future for r in page.records)
            pages += has_moved
            yield page
        if pages <= 1:
            return
        since = earlier(started, COMMIT_LAG)
    scan.complete = False
    logger.warning(
        "Customers move in the list faster than it can be read: some may arrive with "
        "the next run only."
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


def read_days(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the customers that were active yesterday or today, of a list of days.

    Within a day nothing tells what moved, so the scan is not complete. Yesterday may not
    be over in another time zone.
    """
    scan.complete = False
    yesterday = earlier(scan.signpost, timedelta(days=1))
    yield from read_head(read, yesterday[: len("2026-02-15")] + MIDNIGHT)


def times_of(record: Record) -> Times:
    """Return the times that tell whether a customer has changed."""
    return record["updated_at"], record["last_activity_at"]

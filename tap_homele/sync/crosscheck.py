"""Compare what the cursor returned with the list by created date.

Does this server's cursor skip customers? The list by created date does not depend on
it, so it tells without statistics: which customers are there that the cursor did not
return? Fresh imports are what a cursor skips, so what was created since the last scan
is compared at once. A round through all created dates follows in what is left of the
rate limit: each run goes on where the last one stopped.

Once a customer was skipped, the list is read by created date, now and ever after.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import typing as t
from array import array
from collections import Counter
from datetime import datetime, timedelta

from msgspec.structs import replace

from tap_homele.errors import CursorError, PageError
from tap_homele.records import ADDITIONAL
from tap_homele.sync import created
from tap_homele.sync.cursor import by_cursor, to_second
from tap_homele.sync.scan import MIDNIGHT, Page, Round, soon_after

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_homele.records import Record
    from tap_homele.sync.scan import Query, Read, Scan

# A round through all created dates begins anew so long after it began.
ROUND_EVERY = timedelta(days=7)

# From so many days a run estimates how many customers are created in a day.
RECENT_DAYS = 30

# How many requests a run spends on the round if the server does not say what is left.
REQUESTS_OF_A_RUN = 30

logger = logging.getLogger(__name__)


class NoRequestsLeftError(Exception):
    """Another request would have to wait for the rate limit."""


class Hint(t.NamedTuple):
    """What is known of the created dates, for the first window.

    Attributes:
        per_day: How many customers were created in a day, lately.
        newest: The newest day with customers, as a number.
    """

    per_day: float
    newest: int


class Walk:
    """What a run has returned by the cursor. It takes eight bytes for each customer.

    Attributes:
        page_count: How many pages.
        ids: The ids of the customers.
        per_day: How many customers were created on which day.
    """

    def __init__(self) -> None:
        """Begin with no page."""
        self.page_count = 0
        self.ids = array("q")
        self.per_day: Counter[int] = Counter()
        # What was seen on pages that a cursor led to.
        self._had_empty_page = self._had_null = self._had_shared_second = False
        # The second of the last activity on the page before; None, if no page follows.
        self._border: str | None = None

    def add(self, page: Page) -> None:
        """Take note of a page."""
        self.page_count += 1
        self.ids.extend(record["id"] for record in page.records)
        self.per_day.update(map(created.created_on, page.records))
        activities = [record["last_activity_at"] or "" for record in page.records]
        if self._border is not None:
            self._had_empty_page |= not activities
            self._had_null |= any(map(has_no_activity, page.records))
            if self._border and activities:
                self._had_shared_second |= to_second(activities[0]) == self._border
        self._border = None
        if page.next_cursor:
            # A cursor that holds days skips customers of the same day, but none at its
            # midnight, so days would prove nothing.
            last = activities[-1]
            is_day = last.endswith(MIDNIGHT) or page.has_days_only
            self._border = "" if is_day else to_second(last)

    @property
    def proves_the_cursor(self) -> bool:
        """Whether cursors have led to both kinds of customers that one can skip."""
        return self._had_null and self._had_shared_second and not self._had_empty_page

    def hint(self, scan: Scan) -> Hint:
        """Return what is known of the created dates, but for those in the future."""
        newest = min(max(self.per_day, default=0), created.today(scan))
        recent = sum(self.per_day[newest - days] for days in range(RECENT_DAYS))
        return Hint(max(recent, 1) / RECENT_DAYS, newest)

    def missing(self, records: list[Record]) -> list[Record]:
        """Return those customers that the cursor did not return."""
        missing = {record["id"] for record in records}.difference(self.ids)
        return [record for record in records if record["id"] in missing]


def cross_checked(
    read: Read, scan: Scan, requests_left: t.Callable[[], int | None]
) -> Iterator[Page]:
    """Yield every page of the list by its cursor, and compare; or by created date.

    Adds to ``scan.gaps`` if a customer can have been missed.
    """
    walk = Walk()
    try:
        for page in by_cursor(read, scan):
            walk.add(page)
            yield page
    except CursorError:
        scan.leave_cursor("Homele fails to follow its own cursor.")
    else:
        if scan.resumes:
            scan.gaps.append("Cross-check: not in a run that resumed another")
        elif walk.page_count == 1 or (
            # The proof can be wrong where parts of a second are cut off: it will not do
            # for deletes.
            walk.proves_the_cursor and not scan.announces_deletes
        ):
            scan.compared_until = scan.progress.started
        else:
            yield from compare(read, scan, walk, requests_left)
    if scan.by_created_date:
        yield from created.by_created_date(read, scan, *walk.hint(scan))


def compare(
    read: Read, scan: Scan, walk: Walk, requests_left: t.Callable[[], int | None]
) -> Iterator[Page]:
    """Yield the customers that came since the scan began, and look for skipped ones.

    Leaves the cursor if there are some. Keeps ``scan.round`` up to date, and adds to
    ``scan.gaps`` unless this run has compared all customers.
    """
    started = scan.progress.started or ""
    # What is announced to be deleted must be compared in this very run.
    is_new_round = scan.announces_deletes or is_round_due(scan.round, started)
    scan.round = scan.round if scan.round and not is_new_round else Round(began=started)
    read_now = within_limit(read, scan, requests_left)
    try:
        for window in windows_to_compare(read, read_now, scan, walk):
            missing = walk.missing(window.page.records)
            skipped = [r for r in missing if not is_newer(r, scan, window.page.at)]
            if skipped:
                scan.leave_cursor(
                    "The cursor of Homele's list skips customers: "
                    f"{len(skipped)} of those created on {window}."
                )
                return
            if window.page.next_cursor:
                scan.warn(
                    f"More customers were created on {window} than fit on a page: the "
                    f"cursor returned {walk.per_day[window.first]}, and whether it "
                    "skipped others of that day cannot be told."
                )
            yield Page(missing, window.page.at)
        scan.round = replace(scan.round, done=True)
        if not is_new_round:
            # An import with older dates, and without activities, waits for it.
            again = datetime.fromisoformat(scan.round.began) + ROUND_EVERY
            scan.gaps.append(f"Cross-check: the next round begins on {again.date()}")
    except NoRequestsLeftError:
        compared = min(scan.round.compared, len(walk.ids))
        scan.gaps.append(
            f"Cross-check: {compared:,} of {len(walk.ids):,} customers compared, none "
            "skipped; the next run goes on"
        )
    except PageError as error:
        failed = str(error).partition(" Giving up")[0]
        scan.warn(
            f"Whether the cursor skips customers could not be checked: {failed} The "
            "next run tries again."
        )
    if scan.progress.undated:
        scan.warn(created.UNDATED)


def within_limit(
    read: Read, scan: Scan, requests_left: t.Callable[[], int | None]
) -> Read:
    """Make a reader that raises ``NoRequestsLeftError`` instead of waiting."""
    requests = itertools.count()

    def read_now(query: Query) -> Iterator[Page]:
        left = requests_left()
        if left is None:
            left = REQUESTS_OF_A_RUN - next(requests)
        if left <= 0 and not scan.announces_deletes:
            raise NoRequestsLeftError
        return read(query)

    return read_now


def windows_to_compare(
    read: Read, read_now: Read, scan: Scan, walk: Walk
) -> Iterator[created.Window]:
    """Yield what was created since the last full scan began, and then the round.

    Args:
        read: Sends a query.
        read_now: The same, but raises ``NoRequestsLeftError`` instead of waiting.
        scan: Has the round, which is moved on.
        walk: What the cursor returned.
    """
    if scan.margins is None:
        with contextlib.suppress(NoRequestsLeftError):
            scan.margins = created.find_margins(read_now, walk.per_day)
    if scan.compared_until:
        day_before = created.day_number(scan.compared_until) - 1
        for window in created.windows(read, scan, None, *walk.hint(scan)):
            yield window
            if window.first <= day_before:
                break
    scan.compared_until = scan.progress.started
    if scan.round and not scan.round.done:
        before = scan.round.created_before
        for window in created.windows(read_now, scan, before, *walk.hint(scan)):
            yield window
            # Now it has been compared, and its customers sent.
            scan.round = replace(
                scan.round,
                created_before=created.day_of(window.first),
                compared=scan.round.compared + len(window.page.records),
            )


def is_newer(record: Record, scan: Scan, now: str) -> bool:
    """Tell whether a customer may have come, or moved, since the scan began."""
    times = record["created_at"], record["updated_at"], record["last_activity_at"]
    latest = soon_after(now)
    return any(at and scan.signpost <= at <= latest for at in times)


def has_no_activity(record: Record) -> bool:
    """Tell whether a customer has none, and not one that cannot be read."""
    extra = record[ADDITIONAL] or {}
    return record["last_activity_at"] is None and "last_activity_at" not in extra


def is_round_due(round_: Round | None, now: str) -> bool:
    """Tell whether a round is to begin: the last one is done, and began long ago."""
    if round_ is None:
        return True
    age = datetime.fromisoformat(now) - datetime.fromisoformat(round_.began)
    return round_.done and age > ROUND_EVERY

"""Compare what the cursor returned with the list by created date.

Does this server's cursor skip customers? The list by created date does not depend on
it, so it tells: which customers are there that the cursor did not return? A cursor
skips fresh imports above all, since they have no activity or share a second, so what
was created since the last scan is compared at once, waiting where it must. A round
through all created dates follows in what is left of the rate limit: each run goes on
where the last one stopped.

Once a customer was skipped, or the server fails on its own cursor, the list is read by
created date, in this run and in all later ones (``Memory.scan_by``).
"""

import contextlib
import itertools
from array import array
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from tap_homele.errors import CursorError, PageError
from tap_homele.records import Record
from tap_homele.sync import created
from tap_homele.sync.cursor import by_cursor
from tap_homele.sync.scan import Page, Query, Read, Round, Scan
from tap_homele.sync.times import earlier, soon_after, to_day

# A round through all created dates begins anew so long after it began.
ROUND_EVERY = timedelta(days=7)

# From so many days a run estimates how many customers are created in a day.
RECENT_DAYS = 30

# How many requests a run spends on the round if the server does not say what is left.
REQUESTS_OF_A_RUN = 30


class NoRequestsLeftError(Exception):
    """Another request would have to wait for the rate limit."""


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

    def add(self, page: Page) -> None:
        """Take note of a page."""
        self.page_count += 1
        self.ids.extend(record["id"] for record in page.records)
        self.per_day.update(map(created.created_on, page.records))

    def hint(self, scan: Scan) -> created.Hint:
        """Return what is known of the created dates, but for those in the future."""
        known = sorted(filter(None, self.per_day)) or [created.LAST_DAY]
        newest = min(known[-1], created.today(scan))
        recent = sum(self.per_day[newest - days] for days in range(RECENT_DAYS))
        days = created.FILL * created.MAX_PAGE_SIZE * RECENT_DAYS / max(recent, 1)
        return created.Hint(max(1, round(days)), newest, known[0])

    def missing(self, records: list[Record]) -> list[Record]:
        """Return those customers that the cursor did not return."""
        missing = {record["id"] for record in records}.difference(self.ids)
        return [record for record in records if record["id"] in missing]


def cross_checked(read: Read, scan: Scan) -> Iterator[Page]:
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
        elif walk.page_count == 1:
            scan.memory.compared_until = scan.checkpoint.started
        else:
            yield from compare(read, scan, walk)
    if scan.checkpoint.by_created_date:
        yield from created.by_created_date(read, scan, walk.hint(scan))


def compare(read: Read, scan: Scan, walk: Walk) -> Iterator[Page]:
    """Yield the customers that came since the scan began, and look for skipped ones.

    Leaves the cursor if there are some. Keeps the round up to date, and adds to
    ``scan.gaps`` unless this run has compared all customers.
    """
    memory, last = scan.memory, scan.memory.cross_check
    is_old = last.done and last.began < earlier(scan.checkpoint.started, ROUND_EVERY)
    # What is announced to be deleted must be compared in this very run.
    is_new_round = scan.announces_deletes or is_old or not last.began
    if is_new_round:
        memory.cross_check = Round(began=scan.checkpoint.started)
    try:
        for window in windows_to_compare(read, scan, walk):
            missing = walk.missing(window.page.records)
            skipped = [r for r in missing if not is_newer(r, scan, window.page.at)]
            if skipped:
                which = f"{len(skipped)} of those created on {window}"
                scan.leave_cursor(f"Homele's cursor skips customers: {which}.")
                return
            if window.page.next_cursor:
                scan.warn(
                    f"More customers were created on {window} than fit on a page: the "
                    f"cursor returned {walk.per_day[window.first]}, and whether it "
                    "skipped others of that day cannot be told."
                )
            yield Page(missing, window.page.at)
        memory.cross_check.done = True
        if not is_new_round:
            # Until then an import with older dates, and no activities, is not noticed.
            again = to_day(earlier(memory.cross_check.began, -ROUND_EVERY))
            scan.gaps.append(f"Older created dates are compared again on {again}")
    except NoRequestsLeftError:
        compared = min(memory.cross_check.compared, len(walk.ids))
        scan.gaps.append(
            f"Cross-check: {compared:,} of {len(walk.ids):,} customers compared, none "
            "skipped; the next run goes on"
        )
    except PageError as error:
        failed = error.what
        scan.warn(f"Whether the cursor skips customers could not be checked: {failed}")
    if memory.undated:
        scan.warn(created.UNDATED)


def within_limit(read: Read, scan: Scan) -> Read:
    """Make a reader that raises ``NoRequestsLeftError`` instead of waiting.

    Where deletes are announced it waits: they need a complete round.
    """
    requests = itertools.count()

    def read_now(query: Query) -> Iterator[Page]:
        left = scan.requests_left()
        left = REQUESTS_OF_A_RUN - next(requests) if left is None else left
        if left <= 0 and not scan.announces_deletes:
            raise NoRequestsLeftError
        return read(query)

    return read_now


def windows_to_compare(read: Read, scan: Scan, walk: Walk) -> Iterator[created.Window]:
    """Yield what was created since the last full scan began, and then the round.

    Waits for the rate limit for what is new. Moves the round on without waiting, unless
    deletes are announced.

    Raises:
        NoRequestsLeftError: If the round would have to wait.
    """
    memory, hint, read_now = scan.memory, walk.hint(scan), within_limit(read, scan)
    if memory.margins is None:
        with contextlib.suppress(NoRequestsLeftError):
            memory.margins = created.find_margins(read_now, walk.per_day)
    if memory.compared_until:
        day_before = created.day_number(memory.compared_until) - 1
        newest = max(hint.newest, day_before)
        new = hint._replace(days=min(hint.days, newest - day_before + 1), newest=newest)
        for window in created.windows(read, scan, None, new):
            yield window
            if window.first <= day_before:
                break
    memory.compared_until = scan.checkpoint.started
    if not memory.cross_check.done:
        before = memory.cross_check.created_before
        for window in created.windows(read_now, scan, before, hint):
            yield window
            # Now it has been compared, and its customers sent.
            memory.cross_check.created_before = created.day_of(window.first)
            memory.cross_check.compared += len(window.page.records)


def is_newer(record: Record, scan: Scan, now: str) -> bool:
    """Tell whether a customer may have come, or moved, since the scan began."""
    times = record["created_at"], record["updated_at"], record["last_activity_at"]
    return any(at and scan.signpost <= at <= soon_after(now) for at in times)

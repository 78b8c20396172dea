"""Read the list by created date, window by window, which needs no cursor.

Stock Laravel's cursor skips customers. It asks for those *below* the last activity of
the page before, so customers without one are on no page but the first (MySQL, SQLite),
and those that share its second are skipped where the column holds parts of a second. A
created date does not change, so a window of created dates that fits on one page is
complete: one answer, nothing moves, nothing is skipped.

Whether the filters ``date_from`` and ``date_to`` include their own day, and in which
time zone a day begins, is not documented. Where one of them leaves its day out, a
window asks for one day more at that end: neighbours overlap, and the same customer
twice does no harm.
"""

from __future__ import annotations

import itertools
import typing as t
from collections import Counter
from datetime import date

from tap_homele.errors import CursorError, PageError
from tap_homele.records import utc_now
from tap_homele.sync.scan import Query

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_homele.records import Record
    from tap_homele.sync.scan import Page, Read, Scan

# Days are counted as Python does, from 0001-01-01. Customers can have been created
# before that, too: MySQL's zero is 0000-00-00.
BEFORE_ALL, FIRST_DAY, LAST_DAY = 0, date.min.toordinal(), date.max.toordinal()

# The most customers that the API gives at once (the vendor's document), and how full a
# page is meant to be: days differ.
MAX_PAGE_SIZE = 100
FILL = 0.85

# The first window has so many days, if nothing is known of them. In an estimate of the
# customers in a day, what was known before a window counts like so many days.
MEMORY = 7

# How a window is made shorter that was too long, and how much longer the next may be.
SHRINK, GROWTH = 0.7, 4

# The margins that are right whatever the filters do.
BOTH_MARGINS = (1, 1)

UNDATED = (
    "There are customers without a created date, which no window holds: some may be "
    "missing. Tell Homele's support."
)

# How many days are tried to find out whether the filters include their own.
TRIED_DAYS = 3


class Window(t.NamedTuple):
    """Customers created from one day to another, both included.

    Attributes:
        first: The first day.
        last: The last day.
        page: The first page of them.
        rest: The pages after it. Only a single day can have some.
    """

    first: int
    last: int
    page: Page
    rest: Iterator[Page]

    def __str__(self) -> str:
        """Return the days in words."""
        first = str(day_of(self.first)) if self.first else "the first day"
        last = str(day_of(self.last)) if self.last <= LAST_DAY else "today"
        return first if first == last else f"{first} to {last}"


def by_created_date(
    read: Read, scan: Scan, per_day: float = 0, newest: int = 0
) -> Iterator[Page]:
    """Yield every page of the list, the newest created dates first.

    Adds to ``scan.gaps`` if a customer can have been missed.

    Args:
        read: Sends a query.
        scan: What it starts from.
        per_day: As for ``windows``.
        newest: As for ``windows``.

    Raises:
        PageError: If the customers of a day cannot be read; after all others were.
    """
    if scan.margins is None:
        page = next(read(Query()))
        if page.next_cursor is None:
            yield page
            return
        days = Counter(map(created_on, page.records))
        newest, scan.margins = max(days), find_margins(read, days)
    before = scan.resumes.created_before if scan.resumes else None
    unreadable: list[str] = []
    for window in windows(read, scan, before, per_day, newest):
        count = 0
        try:
            for page in itertools.chain([window.page], window.rest):
                count += len(page.records)
                # A later run resumes after a whole window, but not after a day that
                # failed: that is read again.
                is_whole = page.next_cursor is None and not unreadable
                until = day_of(window.first) if is_whole else None
                yield page._replace(next_cursor=None, created_before=until)
        except CursorError:
            unreadable.append(str(window))
        if window.page.next_cursor:
            scan.warn(
                f"More customers were created on {window} than fit on a page: {count} "
                "were read by the cursor, which may skip others."
            )
    if scan.progress.undated:
        scan.warn(UNDATED)
    if unreadable:
        # A checkpoint that leaves all days to do: the next run reads the whole list.
        yield page._replace(records=[], next_cursor=None, created_before=date.max)
        raise PageError(
            f"Of the customers created on {', '.join(unreadable)} more follow, and "
            "Homele fails to follow its own cursor to them. All others were read. Tell "
            "Homele's support; until it is fixed, each run fails like this."
        )


def windows(
    read: Read, scan: Scan, before: date | None, per_day: float, newest: int
) -> Iterator[Window]:
    """Yield the list in windows that fit on a page, or are a single day.

    Args:
        read: Sends a query.
        scan: Has the margins of a window, and the bounds that the filters set.
        before: Only customers created before this day; None: all.
        per_day: How many customers are created in a day, about; 0: not known.
        newest: The newest day that is known to have customers; 0: today.

    Raises:
        PageError: If a window cannot be read.
    """
    lowest, highest = bounds_of(scan)
    last = min(highest, ordinal(before, highest + 1) - 1)
    # The last window has an open end, but no customers are expected after this day.
    top = max(lowest, newest or today(scan))
    most, ahead = MAX_PAGE_SIZE, 1
    length = max(1, round(FILL * most / per_day)) if per_day else MEMORY
    # The length to try if this one is too long, and the one after that: if the estimate
    # is far off, it takes few requests to get down to a day.
    shorter, shrink = int(SHRINK * length), SHRINK**2
    while last >= lowest:
        end = min(last, top)
        first = max(lowest, end - length + 1)
        query = window_query(scan, first, last)
        pages = read(query)
        page = next(pages)
        check_created(query, page)
        if page.next_cursor:
            most = len(page.records)  # a server may give fewer than it was asked for
        if page.next_cursor and first < end:
            length, shorter, shrink = max(1, shorter), int(shrink * shorter), shrink**2
            continue
        if page.next_cursor and end < min(last, LAST_DAY):
            # There are created dates in the future: go there first.
            top, ahead = min(end + ahead, LAST_DAY), 2 * ahead
            continue
        yield Window(first, last, page, pages)
        last, days = first - 1, end - first + 1
        if page.records:
            known_days = MEMORY if per_day else 0
            found = per_day * known_days + len(page.records)
            per_day = found / (known_days + days)
            length = max(1, min(round(FILL * most / per_day), GROWTH * days))
            shorter = int(SHRINK * length)
        else:
            # Perhaps there are none before either; if there are, in longer windows.
            length, shorter = last + 1, GROWTH * days
        shrink = SHRINK**2


def bounds_of(scan: Scan) -> tuple[int, int]:
    """Return the first and the last day that the filters let through."""
    first = ordinal(scan.created_from, BEFORE_ALL)
    return first, ordinal(scan.created_to, LAST_DAY + 1)


def window_query(scan: Scan, first: int, last: int) -> Query:
    """Make the query for a window; where the filters have an open end, it has one."""
    lowest, highest = bounds_of(scan)
    before, after = scan.margins or BOTH_MARGINS
    created_from, created_to = scan.created_from, scan.created_to
    if first > lowest:
        created_from = day_of(max(lowest, first - before))
    if last < highest:
        created_to = day_of(min(highest, last + after))
    return Query(created_from=created_from, created_to=created_to)


def find_margins(read: Read, days: Counter[int]) -> tuple[int, int]:
    """Ask whether the filters include their own day; return the margins of a window.

    - A query for a single day that returns different times: both include it, in
      whatever time zone. (A filter that compares with midnight returns one time, one
      that leaves its day out none.) No margins.
    - The same for that day and the next one: the end leaves its own day out. A day more
      at the end.
    - Otherwise it is not known: a day more at both ends.

    Args:
        read: Sends a query.
        days: How many customers are known to have been created on which day.
    """
    # Ordinary days: on the fullest ones there may have been imports, all at one time.
    several = sorted((count, day) for day, count in days.items() if day and count > 1)
    start = max(0, (len(several) - TRIED_DAYS) // 2)
    tried = [day for _, day in several[start : start + TRIED_DAYS]]
    for extra_days in (0, 1):
        for day in tried:
            query = Query(created_from=day_of(day), created_to=day_of(day + extra_days))
            page = next(read(query))
            check_created(query, page)
            times = sorted({r["created_at"] for r in page.records if r["created_at"]})
            if len(times) > 1:
                # By day, most zones have the date of UTC: which of the days is it?
                middle = day_number(times[len(times) // 2])
                is_first = not extra_days or middle == day
                return (0, extra_days) if is_first else BOTH_MARGINS
    return BOTH_MARGINS


def check_created(query: Query, page: Page) -> None:
    """Check that the customers of a page were created when the query says.

    Raises:
        PageError: If not: the server ignores the filters, say.
    """
    # A day of any time zone begins and ends within a day of that of UTC.
    first = ordinal(query.created_from, BEFORE_ALL) - 1
    last = ordinal(query.created_to, LAST_DAY) + 1
    days = filter(None, map(created_on, page.records))
    if any(not first <= day <= last for day in days):
        raise PageError(
            "Homele was asked for customers created in certain days, and answered with "
            "others. Set scan_by to cursor, and tell Homele's support."
        )


def today(scan: Scan) -> int:
    """Return the day on which a scan began, as a number."""
    return day_number(scan.progress.started or utc_now().isoformat())


def created_on(record: Record) -> int:
    """Return the day, UTC, on which a customer was created; 0, if it is not known."""
    return day_number(record["created_at"]) if record["created_at"] else 0


def day_number(moment: str) -> int:
    """Return the day of a time, as a number."""
    return date.fromisoformat(moment[: len("2026-02-15")]).toordinal()


def ordinal(day: date | None, default: int) -> int:
    """Return the number of a day."""
    return day.toordinal() if day else default


def day_of(number: int) -> date:
    """Return the day with a number, or the nearest that there is."""
    return date.fromordinal(min(max(number, FIRST_DAY), LAST_DAY))

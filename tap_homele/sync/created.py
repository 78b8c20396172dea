"""Read the list by created date, window by window, which needs no cursor.

Stock Laravel's cursor skips customers. It asks for those *below* the last activity of
the page before, so customers without one are on no page but the first (MySQL, SQLite),
and those that share its second are skipped where the column holds parts of a second. A
created date does not change, so a window of created dates that fits on one page is
complete: one answer, nothing moves, nothing is skipped.

Whether the filters ``date_from`` and ``date_to`` include their own day, and in which
time zone a day begins, is not documented. Where one of them leaves its day out, a
window asks for one day more at that end, and neighbours overlap.
"""

import itertools
import typing as t
from collections import Counter
from collections.abc import Iterator
from datetime import date

from tap_homele.errors import CursorError, PageError
from tap_homele.records import Record, utc_now
from tap_homele.sync.cursor import without_seen
from tap_homele.sync.scan import Page, Query, Read, Scan
from tap_homele.sync.times import to_day

# Days are counted as Python does, from 0001-01-01. Customers can have been created
# before that, too: MySQL's zero is 0000-00-00.
BEFORE_ALL, FIRST_DAY, LAST_DAY = 0, date.min.toordinal(), date.max.toordinal()

# The most customers that the API gives at once (the vendor's document), and how full a
# page is meant to be: days differ.
MAX_PAGE_SIZE = 100
FILL = 0.8

# The first window has so many days, if nothing is known of them. In an estimate of how
# many customers a day has, all that was known before a window counts like so many days.
FEW_DAYS = 7

# How much longer a window may be than the one that was read before it.
GROWTH = 4

# The margins that are right whatever the filters do.
BOTH_MARGINS = (1, 1)

UNDATED = "No window holds customers without a created date: some may be missing."

# How many days are tried to find out whether the filters include their own.
TRIED_DAYS = 3


class Hint(t.NamedTuple):
    """What is known of the created dates, before they are read.

    Attributes:
        days: How many days hold about a page of customers; 0: not known.
        newest: The newest day with customers; 0: not known.
        oldest: The oldest one.
    """

    days: int = 0
    newest: int = 0
    oldest: int = LAST_DAY


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


def by_created_date(read: Read, scan: Scan, hint: Hint) -> Iterator[Page]:
    """Yield every page of the list, the newest created dates first.

    Adds to ``scan.gaps`` if a customer can have been missed.

    Args:
        read: Sends a query.
        scan: What it starts from.
        hint: What is known of the created dates.

    Raises:
        PageError: If a window cannot be read. If only the rest of a crowded day cannot,
            after all others were.
    """
    page = next(read(Query()))
    if page.next_cursor is None:
        yield page
        return
    # No window has those without a created date: who was active lately is here.
    undated = [record for record in page.records if not record["created_at"]]
    yield page._replace(records=undated, next_cursor=None)
    if scan.memory.margins is None:
        days = Counter(map(created_on, page.records))
        hint, scan.memory.margins = Hint(newest=max(days)), find_margins(read, days)
    seen, unreadable = dict[int, tuple[str, str]](), list[str]()
    for window in windows(read, scan, scan.checkpoint.created_before, hint):
        count = 0
        # With margins a window overlaps with the two before it, at most.
        seen = dict([*seen.items()][-2 * MAX_PAGE_SIZE :])
        try:
            for page in itertools.chain([window.page], window.rest):
                count += len(page.records)
                # A run that is killed is resumed after a whole window, but not beyond
                # a day that failed.
                is_whole = page.next_cursor is None and not unreadable
                until = day_of(window.first) if is_whole else None
                yield without_seen(page, seen)._replace(created_before=until)
        except CursorError:
            unreadable.append(str(window))
        if window.page.next_cursor:
            scan.warn(
                f"More customers were created on {window} than fit on a page: {count} "
                "were read by the cursor, which may skip others."
            )
    if scan.memory.undated:
        scan.warn(UNDATED)
    if unreadable:
        # A checkpoint before the first window: the next run reads all of them.
        yield page._replace(records=[], next_cursor=None, created_before=date.max)
        raise PageError(
            f"Of the customers created on {', '.join(unreadable)} more follow, and "
            "Homele fails to follow its own cursor to them. All others were read. Tell "
            "Homele's support; until it is fixed, each run fails like this."
        )


def windows(
    read: Read, scan: Scan, before: date | None, hint: Hint
) -> Iterator[Window]:
    """Yield the list in windows that fit on a page, or are a single day.

    Args:
        read: Sends a query.
        scan: Has the margins of a window, and the bounds that the filters set.
        before: Only customers created before this day; None: all.
        hint: What is known of the created dates.

    Raises:
        PageError: If a window cannot be read.
    """
    length, newest, oldest = hint
    lowest, highest = bounds_of(scan)
    last = min(highest, ordinal(before, highest + 1) - 1)
    # The newest window, which is read first, has an open end, but begins as if nobody
    # was created after this day.
    top = max(lowest, newest or today(scan))
    most, ahead = MAX_PAGE_SIZE, 1
    per_day = FILL * most / length if length else 0
    longest = length = length or FEW_DAYS
    while last >= lowest:
        end = min(last, top)
        first = max(lowest, end - length + 1)
        pages = read(window_query(scan, first, last))
        page = next(pages)
        check_created(page, first, last)
        days = end - first + 1
        # A server may give fewer than it was asked for.
        most = len(page.records) if page.next_cursor else most
        if page.next_cursor and days > 1:
            length = min(days // 2, longest)
            continue
        if page.next_cursor and end < min(last, LAST_DAY):
            # There are later created dates than those that are known: go there first.
            top = min(max(end + ahead, today(scan)), LAST_DAY)
            ahead *= 2
            continue
        yield Window(first, last, page, pages)
        last, longest = first - 1, GROWTH * days
        if page.records:
            known_days = FEW_DAYS if per_day else 0
            found = per_day * known_days + len(page.records)
            per_day = found / (known_days + days)
            length = max(1, min(round(FILL * most / per_day), longest))
        else:
            # Beyond the oldest day that is known: all the rest at once.
            length = last + 1 if last < oldest else longest


def check_created(page: Page, first: int, last: int) -> None:
    """Check that the customers of a page were created in certain days.

    Raises:
        PageError: If not: the server ignores the filters, say.
    """
    # A day more is a margin, and another one for the zone of the server's days.
    days = filter(None, map(created_on, page.records))
    if any(not first - 2 <= day <= last + 2 for day in days):
        raise PageError(
            "Homele was asked for customers created in certain days, and answered with "
            "others. Tell Homele's support; with scan_by: cursor nothing depends on it."
        )


def bounds_of(scan: Scan) -> tuple[int, int]:
    """Return the first and the last day that the filters let through."""
    created_from = ordinal(scan.created_from, BEFORE_ALL)
    return created_from, ordinal(scan.created_to, LAST_DAY + 1)


def window_query(scan: Scan, first: int, last: int) -> Query:
    """Make the query for a window; where the filters have an open end, it has one."""
    lowest, highest = bounds_of(scan)
    before, after = scan.memory.margins or BOTH_MARGINS
    begins = day_of(max(lowest, first - before)) if first > lowest else None
    ends = day_of(min(highest, last + after)) if last < highest else None
    return Query(created_from=begins, created_to=ends)


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
    # Those in the middle: on the fullest days imports may have come, all at one time.
    several = sorted((count, day) for day, count in days.items() if day and count > 1)
    tried = several[max(0, len(several) - TRIED_DAYS) // 2 :][:TRIED_DAYS]
    for extra_days in (0, 1):
        for _, day in tried:
            query = Query(created_from=day_of(day), created_to=day_of(day + extra_days))
            page = next(read(query))
            times = sorted({r["created_at"] for r in page.records if r["created_at"]})
            if len(times) > 1:
                # Which of two days came back? Most customers of a day have its date.
                is_first = not extra_days or day_number(times[len(times) // 2]) == day
                return (0, extra_days) if is_first else BOTH_MARGINS
    return BOTH_MARGINS


def today(scan: Scan) -> int:
    """Return the day on which a scan began, as a number."""
    return day_number(scan.checkpoint.started or utc_now().isoformat())


def created_on(record: Record) -> int:
    """Return the day, UTC, on which a customer was created; 0, if it is not known."""
    return day_number(record["created_at"]) if record["created_at"] else 0


def day_number(moment: str) -> int:
    """Return the day of a time, as a number."""
    return date.fromisoformat(to_day(moment)).toordinal()


def ordinal(day: date | None, default: int) -> int:
    """Return the number of a day."""
    return day.toordinal() if day else default


def day_of(number: int) -> date:
    """Return the day with a number, or the nearest that there is."""
    return date.fromordinal(min(max(number, FIRST_DAY), LAST_DAY))

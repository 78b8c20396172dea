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
import logging
import typing as t
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import date

from msgspec.structs import replace

from tap_homele.errors import PageError, ServerError
from tap_homele.records import Record
from tap_homele.sync.cursor import Activities, Seen, times_of, without_seen
from tap_homele.sync.plan import Plan
from tap_homele.sync.times import day_number
from tap_homele.sync.values import (
    Doubt,
    Fetch,
    Learned,
    Page,
    Position,
    Query,
    Traits,
)

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

# The overlap that is right whatever the filters do.
BOTH_ENDS = (1, 1)

UNDATED = "No window holds customers without a created date: some may be missing."

# How many days are tried to find out whether the filters include their own.
TRIED_DAYS = 3


class Hint(t.NamedTuple):
    """What is known of the created dates, before they are read.

    Attributes:
        newest: The newest day with customers.
        today: The day on which the run began.
        days: How many days hold about a page of customers; 0: not known.
        oldest: The oldest day with customers.
    """

    newest: int
    today: int
    days: int = 0
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


class Bounds(t.NamedTuple):
    """Which created dates windows are made of.

    Attributes:
        first: The first day that the filters let through.
        last: The last one.
        overlap: How many days a window asks for in addition, before and after it.
    """

    first: int
    last: int
    overlap: tuple[int, int]

    def query(self, first: int, last: int) -> Query:
        """Make the query of a window; it has an open end where the filters have one."""
        before, after = self.overlap
        begins = day_of(max(self.first, first - before)) if first > self.first else None
        ends = day_of(min(self.last, last + after)) if last < self.last else None
        return Query(created_from=begins, created_to=ends)


def bounds_of(plan: Plan, traits: Traits) -> Bounds:
    """Return the created dates that the filters let through."""
    settings = plan.settings
    first = settings.created_from.toordinal() if settings.created_from else BEFORE_ALL
    last = settings.created_to.toordinal() if settings.created_to else LAST_DAY + 1
    return Bounds(first, last, traits.overlap or BOTH_ENDS)


def by_created_date(
    fetch: Fetch,
    plan: Plan,
    traits: Traits,
    came: Collection[int] = (),
    hint: Hint | None = None,
) -> Iterator[Page | Doubt | Learned]:
    """Yield every page of the list, the newest created dates first.

    Args:
        fetch: Sends a query.
        plan: What the run does.
        traits: What is known of the list.
        came: The ids that have come already in this run. They do not come again.
        hint: What is known of the created dates.

    Raises:
        PageError: If a window cannot be read. If only the rest of a crowded day cannot,
            after all others were.
    """
    ids, done = array("q", came), frozenset(came)
    for step in _all_windows(fetch, plan, traits, hint):
        if isinstance(step, Page):
            new = step.without(done)
            ids.extend([row["id"] for row in new.records])
            yield new
        elif isinstance(step, Traits):
            traits = step
        else:
            yield step
    yield Learned(ids, traits, plan.saved.comparison)


def _all_windows(
    fetch: Fetch, plan: Plan, traits: Traits, hint: Hint | None
) -> Iterator[Page | Doubt | Traits]:
    """Yield the pages of all windows, and at last what is known of the list."""
    page = first_page(fetch)
    if page.next_cursor is None:
        yield page
        return
    # No window has those without a created date: who was active lately is here.
    undated = [row for row in page.records if not row["created_at"]]
    days = Counter([at[:10] for row in page.records if (at := row["created_at"])])
    activities = Activities()
    yield page._replace(records=undated, next_cursor=None)
    if undated:
        traits = replace(traits, has_undated=True)
    if traits.overlap is None:
        traits = replace(traits, overlap=find_overlap(fetch, days))
    today = day_number(plan.now)
    hint = hint or Hint(max(map(day_number, days), default=today), today)
    seen, unreadable = Seen(), list[str]()
    bounds, before = bounds_of(plan, traits), plan.open_scan.position.resume_before
    for window in windows(fetch, bounds, before, hint):
        count, has_ended = 0, True
        # Where windows overlap, one does so with the two before it, at most.
        seen = dict([*seen.items()][-2 * MAX_PAGE_SIZE :])
        try:
            for page in itertools.chain([window.page], window.rest):
                count += len(page.records)
                new, has_ended = without_seen(page, seen), page.next_cursor is None
                activities.add(page)
                seen |= times_of(new.records)
                # A run that is killed is resumed after a whole window, but not beyond
                # a day that failed.
                is_whole = has_ended and not unreadable
                below = Position(resume_before=day_of(window.first))
                yield new._replace(resume_at=below if is_whole else None)
        except ServerError:
            unreadable.append(str(window))
        if window.page.next_cursor:
            level = logging.INFO if traits.has_crowded_day else logging.WARNING
            yield Doubt(
                f"More customers were created on {window} than fit on a page: {count} "
                "were read by the cursor, which may skip others.",
                level,
            )
            traits = replace(traits, has_crowded_day=True)
    if traits.has_undated:
        yield Doubt(UNDATED)
    if unreadable:
        # A position above the first window: the next run reads all of them.
        above = Position(resume_before=date.max)
        yield Page([], page.at, resume_at=above)
        raise PageError(
            f"Of the customers created on {', '.join(unreadable)} more follow, and "
            "Homele fails to follow its own cursor to them. All others were read. Tell "
            "Homele's support; until it is fixed, each run fails like this."
        )
    yield replace(traits, holds_days=activities.hold_days(plan))


def first_page(fetch: Fetch) -> Page:
    """Return the first page of the list. If that is all, it is asked for twice."""
    page = next(fetch(Query()))
    return next(fetch(Query())) if page.next_cursor is None else page


def windows(
    fetch: Fetch, bounds: Bounds, before: date | None, hint: Hint
) -> Iterator[Window]:
    """Yield the list in windows that fit on a page, or are a single day.

    Args:
        fetch: Sends a query.
        bounds: The created dates that the filters let through.
        before: Only customers created before this day; None: all.
        hint: What is known of the created dates.

    Raises:
        PageError: If a window cannot be read.
    """
    newest, today, length, oldest = hint
    last = min(bounds.last, before.toordinal() - 1 if before else bounds.last)
    # The newest window, which is read first, has an open end, but begins as if nobody
    # was created after this day.
    top = max(bounds.first, newest)
    most, ahead = MAX_PAGE_SIZE, 1
    per_day = FILL * most / length if length else 0
    longest = length = length or FEW_DAYS
    while last >= bounds.first:
        end = min(last, top)
        first = max(bounds.first, end - length + 1)
        pages = window_pages(fetch, bounds.query(first, last), most)
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
            top = min(max(end + ahead, today), LAST_DAY)
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


def window_pages(
    fetch: Fetch, query: Query, most: int = MAX_PAGE_SIZE
) -> Iterator[Page]:
    """Yield the pages of a window.

    One that ends it, and is empty or full, is asked for twice: it may end so once.

    Args:
        fetch: Sends a query.
        query: For the window.
        most: How many customers a page has at most.
    """
    cursor = None
    for page in fetch(query):
        if page.next_cursor or 0 < len(page.records) < most:
            yield page
            cursor = page.next_cursor
        else:
            yield from fetch(query._replace(cursor=cursor))


def check_created(page: Page, first: int, last: int) -> None:
    """Check that the customers of a page were created in certain days.

    Raises:
        PageError: If not: the server ignores the filters, say.
    """
    # A day more where windows overlap, and another one for the zone of its days.
    days = [created_on(row) for row in page.records if row["created_at"]]
    if any(not first - 2 <= day <= last + 2 for day in days):
        raise PageError(
            "Homele was asked for customers created in certain days, and answered with "
            "others. Tell Homele's support; with scan_by: cursor nothing depends on it."
        )


def find_overlap(fetch: Fetch, days: Counter[str]) -> tuple[int, int]:
    """Ask whether the filters include their own day; return the overlap of windows.

    - A query for a single day that returns different times: both include it, in
      whatever time zone. (A filter that compares with midnight returns one time, one
      that leaves its day out none.) No overlap.
    - The same for that day and the next one: the end leaves its own day out. A day more
      at the end.
    - Otherwise it is not known: a day more at both ends.

    Args:
        fetch: Sends a query.
        days: How many customers are known to have been created on which day.
    """
    # Those in the middle: on the fullest days imports may have come, all at one time.
    several = sorted((n, day_number(day)) for day, n in days.items() if n > 1)
    tried = several[max(0, len(several) - TRIED_DAYS) // 2 :][:TRIED_DAYS]
    for extra_days in (0, 1):
        for _, day in tried:
            query = Query(created_from=day_of(day), created_to=day_of(day + extra_days))
            page = next(fetch(query))
            times = sorted({r["created_at"] for r in page.records if r["created_at"]})
            if len(times) > 1:
                # Which of two days came back? Most customers of a day have its date.
                is_first = not extra_days or day_number(times[len(times) // 2]) == day
                return (0, extra_days) if is_first else BOTH_ENDS
    return BOTH_ENDS


def created_on(row: Record) -> int:
    """Return the day, UTC, on which a customer was created; 0, if it is not known."""
    return day_number(row["created_at"] or "")


def day_of(number: int) -> date:
    """Return the day with a number, or the nearest that there is."""
    return date.fromordinal(min(max(number, FIRST_DAY), LAST_DAY))

"""Read the list by its cursor, and then its top again, because it moves.

Homele sorts the list by ``last_activity_at``, newest first (the cursor in its document
holds that field). A customer with a new activity jumps to the top. While a run works
its way down, such a customer can jump over it and be missed. So after the last page the
run reads the top of the list again. Whoever is missed even so has times of now, and
comes with the next run; only a run that announces deletes must know that nobody is.
"""

import itertools
import re
from array import array
from collections import Counter
from collections.abc import Generator, Iterator

from msgspec.structs import replace

from tap_homele.errors import CursorError, OutageError, PageError, ServerError
from tap_homele.records import Record
from tap_homele.sync.plan import RESUMED, Plan, from_top_instead
from tap_homele.sync.times import DAY, OVERLAP, earlier, to_second
from tap_homele.sync.values import (
    Doubt,
    Fetch,
    Learned,
    Page,
    Position,
    Query,
    Traits,
)

# How often the top is read, at most; and how often a list may end and then go on.
MAX_READINGS = 10
MAX_ENDS = 10

# The time of a day without a time: midnight in some zone.
_MIDNIGHT = re.compile(r"T\d\d:(00|15|30|45):00\+00:00")

UNSORTED = "The list is not sorted by last activity: who moved may come a run later."
RESTLESS = (
    "Customers move in the list faster than it can be read: some may arrive with the "
    "next run only."
)
HOLDS_DAYS = "The list holds days: what moved while it was read is unknown."

# The times by which a change is told, by id.
Seen = dict[int, tuple[str, str]]


class Activities:
    """Whether last activities are times, or days.

    The cursor in the vendor's document holds a day, so the list may do so too. Then all
    have the same time of the day, midnight in some zone.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._times: set[str] = set()

    def add(self, page: Page) -> None:
        """Take note of a page."""
        if len(self._times) <= 1:
            self._times.update([at[len("2026-02-15") :] for at in page.activities])

    @property
    def are_days(self) -> bool:
        """Whether all that were seen are days."""
        times = [*self._times]
        return len(times) == 1 and bool(_MIDNIGHT.fullmatch(times[0]))

    def hold_days(self, plan: Plan) -> bool:
        """Tell whether those of the list are days.

        A part of the list may be at one midnight by chance, and none tells nothing.
        """
        is_part = plan.kind == RESUMED or not self._times
        return plan.saved.traits.holds_days if is_part else self.are_days


class Walk:
    """What a run has read by the cursor. It takes eight bytes for each customer.

    Attributes:
        started: When the first page was answered, or this machine's clock.
        has_pages: The list has more than one page.
        ids: The ids of the customers.
        days: How many customers were created on which day.
        recent: The times of those that were active shortly before it began, or since.
        activities: Whether they are times or days.
        is_sorted: The list is sorted by last activity.
        has_undated: There are customers without a created date.
        failed: Why the cursor had to be left.
    """

    def __init__(self, now: str) -> None:
        """Begin with no page."""
        self.started, self.last_activity = now, ""
        self.has_pages, self.is_sorted, self.has_undated = False, True, False
        self.ids = array("q")
        self.days: Counter[str] = Counter()
        self.recent: Seen = {}
        self.activities = Activities()
        self.failed: CursorError | None = None

    def add(self, page: Page) -> None:
        """Take note of a page."""
        if not self.ids:
            self.started = min(self.started, page.at)
        self.has_pages |= page.next_cursor is not None
        self.ids.extend([row["id"] for row in page.records])
        created = [row["created_at"] for row in page.records]
        self.days.update([at[:10] for at in created if at])
        self.has_undated |= not all(created)
        active = page.activities
        # The list may be sorted by parts of a second that the API does not write.
        seconds = [to_second(at) for at in (self.last_activity, *active) if at]
        if not page.is_late:
            self.is_sorted &= seconds == sorted(seconds, reverse=True)
            self.last_activity = active[-1] if active else self.last_activity
        self.activities.add(page)
        self.recent |= times_of(page.active_since(self.top))

    @property
    def top(self) -> str:
        """Down to which last activity customers can have moved since it began."""
        if self.activities.are_days:
            # The day before may not be over in another time zone.
            return earlier(f"{self.started[:10]}T00:00:00+00:00", DAY)
        return earlier(self.started, OVERLAP)

    def traits(self, plan: Plan) -> Traits:
        """Return what is known of the list after it, and was known before."""
        known = plan.saved.traits
        return replace(
            known,
            # A resumed scan, or one that left, has not seen the whole order.
            is_sorted=self.is_sorted and plan.kind != RESUMED and not self.failed,
            holds_days=self.activities.hold_days(plan),
            has_undated=known.has_undated or self.has_undated,
        )


def only_by_cursor(fetch: Fetch, plan: Plan) -> Iterator[Page | Doubt | Plan | Learned]:
    """Yield the list by its cursor, with no comparison.

    Raises:
        CursorError: If the server fails on its cursor.
    """
    plan, walk = yield from by_cursor(fetch, plan)
    if walk.failed:
        raise walk.failed
    yield Learned(walk.ids, walk.traits(plan), plan.saved.comparison)


def by_cursor(
    fetch: Fetch, plan: Plan
) -> Generator[Page | Doubt | Plan, None, tuple[Plan, Walk]]:
    """Yield every page of the list, and then the customers that moved meanwhile.

    Returns:
        The plan, which is another one where a scan could not be resumed; and what was
        read, of which ``failed`` says if the cursor has to be left.
    """
    walk = Walk(plan.now)
    try:
        for step in _from_position(fetch, plan):
            if isinstance(step, Plan):
                plan = step
            else:
                walk.add(step)
            yield step
        if not walk.is_sorted:
            yield Doubt(UNSORTED)
        elif walk.has_pages or plan.kind == RESUMED:
            for moved in _moved(fetch, plan, walk):
                if isinstance(moved, Page):
                    ids = {row["id"] for row in moved.records}
                    walk.ids.extend(ids.difference(walk.ids))
                yield moved
    except CursorError as error:
        walk.failed = error
    return plan, walk


def _from_position(fetch: Fetch, plan: Plan) -> Iterator[Page | Plan]:
    """Yield the pages from where a scan was interrupted on, or from the top.

    A position that cannot be read must not hold up every run to come.
    """
    if plan.kind == RESUMED:
        pages = follow(fetch, Query(cursor=plan.open_scan.position.cursor))
        page, reason = None, "the list ended there"
        try:
            page = next(pages)
            if not page.records and not page.next_cursor:
                page = next(pages)  # it may be so once
        except OutageError:
            raise
        except PageError as error:
            reason = str(error)
        if page and (page.records or page.next_cursor):
            yield from itertools.chain([page], pages)
            return
        reason = f"its next page cannot be read ({reason})"
        yield from_top_instead(plan, reason)
    yield from follow(fetch, Query())


def follow(fetch: Fetch, query: Query) -> Iterator[Page]:
    """Yield the pages from a query to the end of the list.

    The page that ends it is asked for again, with its own cursor: customers would be
    lost for good, or deleted, if a list ended early once.

    Raises:
        CursorError: If requests with a cursor fail while the list without one answers.
        PageError: If a page cannot be read.
    """
    has_failed, has_ended, ends = False, False, 0
    seen = Seen()
    while ends <= MAX_ENDS:
        try:
            for page in fetch(query):
                new, cursor = without_seen(page, seen), page.next_cursor
                is_again = bool(seen)
                # Now: whoever takes the page may change its records.
                seen = {} if cursor else times_of(page.records)
                resume_at = Position(cursor) if cursor else None
                yield new._replace(resume_at=resume_at, is_late=is_again)
                has_failed = False
                if cursor:
                    query, has_ended = query._replace(cursor=cursor), False
        except ServerError as error:
            if not query.cursor:
                raise
            if has_failed:
                raise CursorError(str(error)) from None
            has_failed = True
            # If this is an outage, it ends the run here, or is over when this answers.
            next(fetch(query._replace(cursor=None)))
            continue
        if has_ended:
            return
        has_ended, ends = True, ends + 1
    raise PageError(
        f"The list has ended, and then gone on, {MAX_ENDS} times. Run the tap again; "
        "if it stays so, tell Homele's support."
    )


def _moved(fetch: Fetch, plan: Plan, walk: Walk) -> Iterator[Page | Doubt]:
    """Yield the customers that moved to the top since the run began.

    One reading is enough where the next run can mend it. Before deletes are announced
    nobody may be missing: a top that fits on one page is a snapshot. Else it is read
    again until nobody comes whom it had not before.
    """
    is_closed = plan.settings.announces_deletes
    if is_closed and walk.activities.are_days:
        yield Doubt(HOLDS_DAYS)  # nothing tells what moved within a day
        is_closed = False
    since = until = walk.top
    seen, is_quiet = walk.recent, False
    for _ in range(MAX_READINGS if is_closed else 1):
        page_count, news, began = 0, 0, ""
        for page in read_top(fetch, until):
            active = page.active_since(since)
            moved = page._replace(records=active, is_late=True)
            moved = without_seen(moved, seen)
            page_count, news = page_count + 1, news + len(moved.records)
            seen, began = seen | times_of(moved.records), began or page.at
            yield moved
        if page_count <= 1 or (is_quiet and not news):
            break
        # Who jumped while the pages after the first one were read is on the first now.
        is_quiet = not news
        until = began if is_quiet else since
    else:
        if is_closed:
            yield Doubt(RESTLESS)


def read_top(fetch: Fetch, since: str) -> Iterator[Page]:
    """Yield the pages from the top of the list to one that reaches below a time.

    Customers without an activity say nothing: databases sort them first, last, or by
    another date.
    """
    for page in follow(fetch, Query()):
        active = page.activities
        yield page._replace(resume_at=None)  # whoever takes it may change its records
        if any(at < since for at in active):
            return


def without_seen(page: Page, seen: Seen) -> Page:
    """Return a page without the customers that have come with the same times."""
    if not seen:
        return page
    return page.without(dict(seen.items() & times_of(page.records).items()))


def times_of(records: list[Record]) -> Seen:
    """Return the times that tell whether a customer has changed, by id."""
    return {
        r["id"]: (r["updated_at"] or "", r["last_activity_at"] or "") for r in records
    }

"""Compare what the cursor returned with the list by created date.

Does this server's cursor skip customers? The list by created date does not depend on it,
so it tells without statistics: which customers are there that the cursor did not return?
Fresh imports are what a cursor skips, so what was created since the last scan is compared
at once. A round through all created dates follows in what is left of the rate limit: each
run goes on where the last one stopped.

Once a customer was skipped, the list is read by created date, now and ever after.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import typing as t
from array import array
from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import msgspec

from tap_homele.sync.created import (
    LAST_DAY,
    Window,
    by_created_date,
    created_on,
    day_of,
    find_margins,
    ordinal,
    windows,
)
from tap_homele.sync.cursor import SECOND, by_cursor
from tap_homele.sync.scan import MIDNIGHT, Moment, Page, PageError, Query, Read, Scan

if t.TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from tap_homele.records import Record

# A round through all created dates begins anew so long after it began.
ROUND_EVERY = timedelta(days=7)

# How many requests a run spends on the round where the server does not say how many
# are left.
REQUESTS_OF_A_RUN = 30

logger = logging.getLogger(__name__)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """How far a round through all created dates is. It stands in the state.

    Attributes:
        began: When, by the server's clock.
        created_before: Customers created on this day or later have been compared.
        compared: How many those are.
        crowded: Days that do not fit on a page, as they were named in the log.
        done: All created dates have been compared.
    """

    began: Moment
    created_before: date | None = None
    compared: int = 0
    crowded: tuple[date, ...] = ()
    done: bool = False


@dataclass
class CrossCheck:
    """The cross-check of one run.

    Attributes:
        since: When the last full scan began; None: there was none.
        requests_left: Tells how many requests are left in this minute; None where the
            server does not say.
        must_finish: Finish the round in this run, even if it has to wait.
        round: The round that is under way, or the last one.
        progress: What the summary says of an unfinished round; empty: nothing.
    """

    since: str | None
    requests_left: t.Callable[[], int | None]
    must_finish: bool = False
    round: Round | None = None
    progress: str = ""


class Walk:
    """What a run has returned by the cursor, against which created dates are compared.

    It takes eight bytes for each customer.
    """

    def __init__(self) -> None:
        """Begin with no page."""
        self.pages = 0
        self.per_day: Counter[int] = Counter()
        self._ids = array("q")
        # The second of the last activity on the border of two pages, and what was seen
        # on pages that a cursor led to.
        self._border: str | None = None
        self._seen: set[str] = set()

    def add(self, page: Page) -> None:
        """Take note of a page."""
        self.pages += 1
        self._ids.extend(record["id"] for record in page.records)
        self.per_day.update(filter(None, map(created_on, page.records)))
        activities = [record["last_activity_at"] for record in page.records]
        if self._border is not None:
            if not activities:
                self._seen.add("empty page")
            elif (activities[0] or "")[SECOND] == self._border != "":
                self._seen.add("shared second")
            if None in activities:
                self._seen.add("no activity")
        self._border = None
        if page.next_cursor:
            last = activities[-1] or ""
            # At midnight it may be a day, and a cursor that holds days gets those right.
            self._border = "" if last.endswith(MIDNIGHT) else last[SECOND]

    @property
    def proves_that_nobody_is_skipped(self) -> bool:
        """Whether the cursor has led to all the customers that it is known to skip."""
        return self.pages == 1 or self._seen == {"shared second", "no activity"}

    @property
    def known(self) -> dict[str, t.Any]:
        """What ``windows`` can use: the newest created date, and how many there are."""
        newest, oldest = max(self.per_day, default=None), min(self.per_day, default=0)
        average = self.per_day.total() / ((newest or 0) - oldest + 1)
        return {"newest": newest, "per_day": average}

    def __len__(self) -> int:
        """Count the customers."""
        return len(self._ids)

    def lacks(self, records: list[Record]) -> list[Record]:
        """Give those of some customers that the cursor did not return."""
        missing = {record["id"] for record in records}.difference(self._ids)
        return [record for record in records if record["id"] in missing]


class NoRequestsLeftError(Exception):
    """Another request would have to wait for the rate limit."""


def cross_checked(read: Read, scan: Scan, check: CrossCheck) -> Iterator[Page]:
    """Yield every page of the list by its cursor, and compare; or by created date.

    Sets ``scan.complete`` to False if a customer can have been missed.
    """
    walk = Walk()
    try:
        for page in by_cursor(read, scan):
            walk.add(page)
            yield page
        if scan.resumes:
            check.progress = "Cross-check: not in a run that resumed another"
            scan.complete = False
            return
        if walk.proves_that_nobody_is_skipped:
            return
        skipped = yield from compare(read, scan, check, walk)
        if not skipped:
            return
        reason = f"The cursor of Homele's list skips customers: {skipped}"
    except PageError as error:
        if not (error.server_failed and walk.pages):
            raise
        reason = "Homele fails to follow its own cursor."
    logger.warning("%s Reading the list by created date, from now on.", reason)
    scan.leave_cursor()
    yield from by_created_date(read, scan, **walk.known)


def compare(
    read: Read, scan: Scan, check: CrossCheck, walk: Walk
) -> Generator[Page, None, str]:
    """Yield the customers that came since the scan began, and look for skipped ones.

    Keeps ``check.round`` up to date. Leaves ``scan.complete`` only if this run has
    compared all customers.

    Returns:
        How many customers the cursor skipped, in words; empty, if none was found.
    """
    started = scan.progress.started or ""
    is_new = check.must_finish or check.round is None or is_over(check.round, started)
    if is_new or check.round is None:
        check.round = Round(began=started)
    was_complete, scan.complete = scan.complete, False
    try:
        for window in windows_to_compare(read, scan, check, walk):
            missing = walk.lacks(window.page.records)
            if skipped := [r for r in missing if not scan.is_newer(window.page, r)]:
                return f"{len(skipped)} of those created on {window}."
            check.round = extended(check.round, window, walk)
            yield Page(missing, window.page.at)
        check.round = msgspec.structs.replace(check.round, done=True)
        scan.complete = was_complete and is_new and not check.round.crowded
    except NoRequestsLeftError:
        check.progress = (
            f"Cross-check: {min(check.round.compared, len(walk)):,} of {len(walk):,} "
            "customers compared, none skipped; the next run goes on"
        )
    except PageError as error:
        check.progress = "Cross-check: failed; the next run goes on"
        logger.warning(
            "Whether the cursor skips customers could not be checked: %s", error
        )
    return ""


def windows_to_compare(
    read: Read, scan: Scan, check: CrossCheck, walk: Walk
) -> Iterator[Window]:
    """Yield what was created since the last full scan began, and then the round.

    Raises:
        NoRequestsLeftError: If the round would have to wait.
    """
    read_now = within_limit(read, check)
    if scan.margins is None:
        with contextlib.suppress(NoRequestsLeftError):
            scan.margins = find_margins(read_now, walk.per_day)
    if check.since:
        for window in windows(read, scan, **walk.known):
            yield window
            if window.first < ordinal(check.since):
                break  # a day to spare
    if check.round and not check.round.done:
        before = check.round.created_before
        yield from windows(read_now, scan, before=before, **walk.known)


def within_limit(read: Read, check: CrossCheck) -> Read:
    """Make of a reader one that does not wait for the rate limit.

    It raises ``NoRequestsLeftError`` instead, if the round need not be finished.
    """
    requests = itertools.count()

    def read_now(query: Query) -> Iterator[Page]:
        left = check.requests_left()
        if left is None:
            left = REQUESTS_OF_A_RUN - next(requests)
        if left <= 0 and not check.must_finish:
            raise NoRequestsLeftError
        return read(query)

    return read_now


def is_over(round_: Round, now: str) -> bool:
    """Tell whether a round began so long ago that another one is due."""
    age = datetime.fromisoformat(now) - datetime.fromisoformat(round_.began)
    return age > ROUND_EVERY


def extended(round_: Round, window: Window, walk: Walk) -> Round:
    """Add a window to what a round has compared, if it is the next one.

    Names a day that does not fit on a page in the log, once in a round.
    """
    crowded = round_.crowded
    if not window.fits and (day := day_of(window.first)) not in crowded:
        crowded = (*crowded, day)
        logger.warning(
            "More customers were created on %s than fit on a page: the cursor returned "
            "%d, and whether it skipped others of that day cannot be told.",
            day,
            walk.per_day[window.first],
        )
    before = round_.created_before
    reached = before.toordinal() if before else LAST_DAY + 1
    if before and window.last < reached - 1:
        return msgspec.structs.replace(round_, crowded=crowded)
    days = [created_on(record) or 0 for record in window.page.records]
    return msgspec.structs.replace(
        round_,
        created_before=day_of(min(reached, window.first)),
        compared=round_.compared + sum(day < reached for day in days),
        crowded=crowded,
    )

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

from tap_homele.errors import PageError, ServerError
from tap_homele.sync import created
from tap_homele.sync.cursor import SECOND, by_cursor
from tap_homele.sync.scan import MIDNIGHT, Page, Round

if t.TYPE_CHECKING:
    from collections.abc import Iterator

    from tap_homele.records import Record
    from tap_homele.sync.scan import Query, Read, Scan

# A round through all created dates begins anew so long after it began.
ROUND_EVERY = timedelta(days=7)

# How many requests a run spends on the round if the server does not say what is left.
REQUESTS_OF_A_RUN = 30

logger = logging.getLogger(__name__)


class NoRequestsLeftError(Exception):
    """Another request would have to wait for the rate limit."""


class Walk:
    """What a run has returned by the cursor. It takes eight bytes for each customer."""

    def __init__(self) -> None:
        """Begin with no page."""
        self.pages = 0
        self.ids = array("q")
        self.per_day: Counter[int] = Counter()
        # The second of the last activity before the border of two pages; None, if no
        # cursor led over it. And what was seen on pages that a cursor led to.
        self._border: str | None = None
        self._seen: set[str] = set()

    def add(self, page: Page) -> None:
        """Take note of a page."""
        self.pages += 1
        self.ids.extend(record["id"] for record in page.records)
        self.per_day.update(map(created.created_on, page.records))
        activities = [record["last_activity_at"] or "" for record in page.records]
        if self._border is not None:
            self._seen |= {"no activity"} if "" in activities else set()
            self._seen |= {"empty page"} if not activities else set()
            if activities and activities[0][SECOND] == self._border > "":
                self._seen.add("shared second")
        last = activities[-1] if activities else ""
        # At midnight it may be a day, and a cursor that holds days gets those right.
        self._border = last[SECOND] * (not last.endswith(MIDNIGHT))
        if not page.next_cursor:
            self._border = None

    @property
    def is_proof(self) -> bool:
        """Whether a cursor has led to all the customers that a cursor can skip."""
        return self.pages == 1 or self._seen == {"no activity", "shared second"}

    @property
    def window(self) -> tuple[int, int]:
        """How many days a window should have, and the newest day with customers."""
        newest, oldest = max(self.per_day), min(filter(None, self.per_day), default=0)
        per_day = len(self.ids) / (newest - oldest + 1)
        return round(created.FILL * created.MAX_PAGE_SIZE / per_day) or 1, newest

    def lacks(self, records: list[Record]) -> list[Record]:
        """Return the customers that the cursor did not return."""
        missing = {record["id"] for record in records}.difference(self.ids)
        return [record for record in records if record["id"] in missing]


def cross_checked(
    read: Read, scan: Scan, requests_left: t.Callable[[], int | None]
) -> Iterator[Page]:
    """Yield every page of the list by its cursor, and compare; or by created date.

    Sets ``scan.gap`` if a customer can have been missed.
    """
    walk = Walk()
    try:
        for page in by_cursor(read, scan):
            walk.add(page)
            yield page
    except ServerError:
        if not walk.pages:
            raise
        scan.leave_cursor("Homele fails to follow its own cursor.")
    else:
        if scan.resumes:
            scan.gap = "Cross-check: not in a run that resumed another"
        elif not walk.is_proof:
            yield from compare(read, scan, walk, requests_left)
    if scan.by_created_date:
        yield from created.by_created_date(read, scan, *walk.window)


def compare(
    read: Read, scan: Scan, walk: Walk, requests_left: t.Callable[[], int | None]
) -> Iterator[Page]:
    """Yield the customers that came since the scan began, and look for skipped ones.

    Leaves the cursor if there are some. Keeps ``scan.round`` up to date, and sets
    ``scan.gap`` unless this run has compared all customers.
    """
    started = scan.progress.started or ""
    is_new = scan.announces_deletes or is_over(scan.round, started)
    scan.round = scan.round if scan.round and not is_new else Round(began=started)
    requests = itertools.count()

    def read_now(query: Query) -> Iterator[Page]:
        left = requests_left()
        if left is None:
            left = REQUESTS_OF_A_RUN - next(requests)
        if left <= 0 and not scan.announces_deletes:
            raise NoRequestsLeftError
        return read(query)

    try:
        for window in windows_to_compare(read, read_now, scan, walk):
            missing = walk.lacks(window.page.records)
            skipped = [r for r in missing if not is_newer(r, scan.signpost)]
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
        if not is_new:
            again = datetime.fromisoformat(scan.round.began) + ROUND_EVERY
            scan.gap = f"Cross-check: the next round begins on {again.date()}"
    except NoRequestsLeftError:
        compared = min(scan.round.compared, len(walk.ids))
        scan.gap = (
            f"Cross-check: {compared:,} of {len(walk.ids):,} customers compared, none "
            "skipped; the next run goes on"
        )
    except PageError as error:
        scan.warn(
            f"Whether the cursor skips customers could not be checked: {error} The "
            "next run tries again."
        )


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
    if scan.since:
        spare_day = created.created_on({"created_at": scan.since}) - 1
        for window in created.windows(read, scan, None, *walk.window):
            yield window
            if window.first <= spare_day:
                break
    if scan.round and not scan.round.done:
        before = scan.round.created_before
        for window in created.windows(read_now, scan, before, *walk.window):
            yield window
            scan.round = replace(
                scan.round,
                created_before=created.day_of(window.first),
                compared=scan.round.compared + len(window.page.records),
            )


def is_newer(record: Record, moment: str) -> bool:
    """Tell whether a customer may have come, or moved, since a time."""
    times = record["created_at"], record["updated_at"], record["last_activity_at"]
    return any(at and at >= moment for at in times)


def is_over(round_: Round | None, now: str) -> bool:
    """Tell whether a round is due: there is none, or it began long ago."""
    if round_ is None:
        return True
    age = datetime.fromisoformat(now) - datetime.fromisoformat(round_.began)
    return age > ROUND_EVERY

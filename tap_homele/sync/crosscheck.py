"""Compare what the cursor returned with the list by created date.

Does this server's cursor skip customers? The list by created date does not depend on
it, so it tells: which customers are there that the cursor did not return? A cursor
skips fresh imports above all, since they have no activity or share a second, so what
was created since the last comparison is compared at once, waiting where it must. Older
created dates follow, from where the last run stopped, round and round, in what is left
of the rate limit.

A customer that was skipped, or a cursor that fails, is one observation: the rest of the
run reads by created date, and the next full scan begins by the cursor again.
"""

import itertools
import logging
import typing as t
from array import array
from collections.abc import Callable, Generator, Iterator

from msgspec.structs import replace

from tap_homele.errors import PageError
from tap_homele.records import Record
from tap_homele.sync import created
from tap_homele.sync.created import Hint, Window
from tap_homele.sync.cursor import Walk, by_cursor
from tap_homele.sync.plan import RESUMED, Plan, by_created_date_instead
from tap_homele.sync.times import OVERLAP, day_number, earlier, later
from tap_homele.sync.values import (
    Comparison,
    Doubt,
    Fetch,
    Learned,
    Note,
    Page,
    Query,
    Traits,
)

# From so many days a run estimates how many customers are created in a day.
RECENT_DAYS = 30

# How many requests a run spends on older created dates, at most; and how many must be
# left in the minute, or it waits once for the next one: an account whose list takes all
# requests of a minute would never be compared.
MAX_REQUESTS = 30
TOO_FEW_LEFT = 10

FAILING = "Homele fails to follow its own cursor."

# Tells how many requests the API still takes in this minute; None: not known.
RequestsLeft: t.TypeAlias = Callable[[], int | None]


class NoRequestsLeftError(Exception):
    """The older created dates have had their share of requests."""


class Compared(t.NamedTuple):
    """What a comparison has found.

    Attributes:
        comparison: How far it is.
        traits: What is known of the list.
        skipped: That the cursor has skipped customers, in a sentence; or nothing.
        came: The ids that have come with it.
    """

    comparison: Comparison
    traits: Traits
    skipped: str = ""
    came: tuple[int, ...] = ()


def cross_checked(
    fetch: Fetch, plan: Plan, requests_left: RequestsLeft
) -> Iterator[Page | Doubt | Note | Plan | Learned]:
    """Yield every page of the list by its cursor, and compare; or by created date."""
    plan, walk = yield from by_cursor(fetch, plan)
    found = Compared(plan.saved.comparison, walk.traits(plan))
    if walk.failed:
        found = found._replace(skipped=FAILING)
    elif not walk.has_pages and plan.kind != RESUMED:
        # It fits on one page, so no cursor was needed.
        found = found._replace(comparison=replace(found.comparison, since=walk.started))
    elif plan.kind != RESUMED:
        found = yield from compare(fetch, plan, walk, requests_left)
    ids = array("q", [*walk.ids, *found.came]) if found.came else walk.ids
    if not found.skipped:
        yield Learned(ids, found.traits, found.comparison)
        return
    hid_some = walk.failed is None
    plan = by_created_date_instead(plan, found.skipped, hid_some=hid_some)
    yield plan
    came = () if plan.reads_anew else ids
    traits = replace(found.traits, is_sorted=False)
    yield from created.by_created_date(fetch, plan, traits, came, hint_of(walk))


def compare(
    fetch: Fetch, plan: Plan, walk: Walk, requests_left: RequestsLeft
) -> Generator[Page | Doubt | Note, None, Compared]:
    """Yield the customers that came since the run began, and look for skipped ones."""
    found = Compared(plan.saved.comparison, walk.traits(plan))
    is_crowded, came = found.traits.has_crowded_day, list[int]()
    try:
        for window, now in _to_compare(fetch, plan, walk, requests_left):
            traits = replace(now.traits, has_crowded_day=is_crowded)
            found = now._replace(traits=traits)
            if window is None:
                break
            page = window.page
            ids = {row["id"] for row in page.records}.difference(walk.ids)
            missing = [row for row in page.records if row["id"] in ids]
            skipped = [row for row in missing if not _has_moved(row, walk, page.at)]
            if skipped:
                sentence = (
                    f"Homele's cursor skips customers: {len(skipped)} of those created "
                    f"on {window}."
                )
                return Compared(found.comparison, traits, sentence, (*came,))
            if page.next_cursor:
                yield from _crowded(window, plan, walk, traits)
                is_crowded = True
            came += ids
            yield Page(missing, page.at, is_late=True)
    except NoRequestsLeftError:
        down_to = found.comparison.compared_down_to
        if down_to and not found.comparison.is_complete:
            yield Note(
                f"Cross-check: created dates down to {down_to} compared, none skipped; "
                "the next run goes on."
            )
    except PageError as error:
        yield Doubt(
            f"Whether the cursor skips customers could not be checked: {error.what}"
        )
    if found.traits.has_undated and plan.settings.announces_deletes:
        yield Doubt(created.UNDATED)
    return found._replace(came=(*came,))


def _to_compare(
    fetch: Fetch, plan: Plan, walk: Walk, requests_left: RequestsLeft
) -> Iterator[tuple[Window | None, Compared]]:
    """Yield windows, and what will be known after each of them; at last without one.

    First what was created since the last comparison, with one day of overlap, waiting
    where it must. Then older created dates, from where the last run stopped down to the
    oldest, and from the top to where it began: at most once round.

    Raises:
        NoRequestsLeftError: If it has had its share of requests.
        PageError: If a window cannot be read.
    """
    saved, traits, hint = plan.saved.comparison, walk.traits(plan), hint_of(walk)
    comparison = replace(saved, since=walk.started)
    lowest = None
    if saved.since:
        bounds = created.bounds_of(plan, traits)
        day_before = day_number(saved.since) - 1
        newest = max(hint.newest, day_before)
        few = hint._replace(newest=newest, days=min(hint.days, newest - day_before + 1))
        for window in created.windows(fetch, bounds, None, few):
            lowest = created.day_of(window.first)
            is_last = window.first <= day_before
            yield window, Compared(comparison if is_last else saved, traits)
            if is_last:
                break
    fetch = _limited(fetch, plan, requests_left())
    if traits.overlap is None:
        overlap = created.find_overlap(fetch, walk.days)
        traits = replace(traits, overlap=overlap)
    bounds, begun = created.bounds_of(plan, traits), saved.compared_down_to
    start = min(begun, lowest) if begun and lowest else begun or lowest
    for window in created.windows(fetch, bounds, start, hint):
        down_to = created.day_of(window.first)
        comparison = replace(comparison, compared_down_to=down_to)
        yield window, Compared(comparison, traits)
    comparison = replace(comparison, is_complete=True, compared_down_to=None)
    if start and start != lowest:
        for window in created.windows(fetch, bounds, lowest, hint):
            down_to = created.day_of(window.first)
            so_far = replace(comparison, compared_down_to=down_to)
            yield window, Compared(so_far, traits)
            if down_to <= start:
                break
    yield None, Compared(comparison, traits)


def _limited(fetch: Fetch, plan: Plan, left: int | None) -> Fetch:
    """Make a fetch that raises ``NoRequestsLeftError`` after its share of requests.

    Deletes need a complete comparison, so for them there is no limit.
    """
    share = MAX_REQUESTS
    if left is not None and left >= TOO_FEW_LEFT:
        share = min(left, MAX_REQUESTS)
    requests = itertools.count()

    def limited(query: Query) -> Iterator[Page]:
        if next(requests) >= share and not plan.settings.announces_deletes:
            raise NoRequestsLeftError
        return fetch(query)

    return limited


def _crowded(
    window: Window, plan: Plan, walk: Walk, traits: Traits
) -> Iterator[Doubt | Note]:
    """Say that a day cannot be compared; of each list once, for it stays so."""
    count = walk.days[str(created.day_of(window.first))]
    sentence = (
        f"More customers were created on {window} than fit on a page: the cursor "
        f"returned {count}, and whether it skipped others of that day cannot be told."
    )
    level = logging.INFO if traits.has_crowded_day else logging.WARNING
    if plan.settings.announces_deletes:
        yield Doubt(sentence, level)
    elif not traits.has_crowded_day:
        yield Note(sentence, level)


def _has_moved(row: Record, walk: Walk, now: str) -> bool:
    """Tell whether a customer may have come, or moved, since the run began."""
    times = row["created_at"], row["updated_at"], row["last_activity_at"]
    since, until = earlier(walk.started, OVERLAP), later(now, OVERLAP)
    return any(at and since <= at <= until for at in times)


def hint_of(walk: Walk) -> Hint:
    """Return what is known of the created dates, but for those in the future."""
    days = {day_number(day): count for day, count in walk.days.items()}
    known = sorted(days) or [created.LAST_DAY]
    today = day_number(walk.started)
    newest = min(known[-1], today)
    recent = sum(days.get(newest - ago, 0) for ago in range(RECENT_DAYS))
    length = created.FILL * created.MAX_PAGE_SIZE * RECENT_DAYS / max(recent, 1)
    return Hint(newest, today, max(1, round(length)), known[0])

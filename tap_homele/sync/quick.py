"""Quick runs: read what was active or created since the last run, and nothing else.

The list runs by last activity, so what was active is at its top. New customers may have
no activity yet and be anywhere, so they are read by created date. What a quick run does
not see are edits without an activity, and imports with old dates: the next full scan
sends them, because the bookmark stays where the last full scan has left it.
"""

import itertools
import logging
from array import array
from collections.abc import Iterator

from msgspec.structs import replace

from tap_homele.sync import created
from tap_homele.sync.cursor import Seen, read_top, times_of, without_seen
from tap_homele.sync.plan import Plan
from tap_homele.sync.times import day_number
from tap_homele.sync.values import Doubt, Fetch, Learned, Page


def quick(fetch: Fetch, plan: Plan) -> Iterator[Page | Doubt | Learned]:
    """Yield the pages of a quick run.

    Raises:
        PageError: If a page cannot be read, or holds customers of other days.
    """
    seen, traits = Seen(), plan.saved.traits
    for step in itertools.chain(read_top(fetch, plan.since), _new(fetch, plan)):
        if isinstance(step, Page):
            if not all(row["created_at"] for row in step.records):
                traits = replace(traits, has_undated=True)
            page = without_seen(step, seen)
            seen |= times_of(page.records)
            yield page
        else:
            yield step
    if traits.has_undated:
        yield Doubt(created.UNDATED)
    yield Learned(array("q"), traits, plan.saved.comparison)


def _new(fetch: Fetch, plan: Plan) -> Iterator[Page | Doubt]:
    """Yield the customers that were created since the last run, and a day before."""
    first, last = day_number(plan.since) - 1, created.LAST_DAY + 1
    query = created.bounds_of(plan, plan.saved.traits).query(first, last)
    for number, page in enumerate(created.window_pages(fetch, query)):
        created.check_created(page, first, last)
        if number == 1:  # the second page
            yield Doubt(
                "New customers fill a page: the cursor may skip others, which come "
                "with the next full scan.",
                logging.INFO,
            )
        yield page

"""How one run reads the list: which pages, in which order.

``values.py`` has what is handed on, ``plan.py`` what a run does, ``changes.py`` what is
sent; every other file is about one hazard of the API. They take a ``fetch``, which
turns a query into pages, and yield what they find. Nothing here sends a request,
imports the SDK, writes the state, or writes into what it was given.

- *run*: one sync of the stream.
- *full scan*: one reading of the whole list; in several runs, if it is interrupted.
- *bookmark*: customers that changed since then are sent.
- *top* of the list: where customers with new activities are.
- *window*: the customers created between two days. *Overlap*: the days that it asks for
  in addition.
- *comparison*: of created dates with what the cursor returned.
- *doubt*: why a customer may be missing. With one, no delete is announced.
"""

import typing as t
from collections.abc import Iterator

from tap_homele.errors import PageError
from tap_homele.sync.count import counted
from tap_homele.sync.created import by_created_date
from tap_homele.sync.crosscheck import RequestsLeft, cross_checked
from tap_homele.sync.cursor import only_by_cursor
from tap_homele.sync.plan import QUICK, Plan, full_scan_instead
from tap_homele.sync.quick import quick
from tap_homele.sync.values import (
    CREATED_DATE,
    CURSOR,
    Doubt,
    Fetch,
    Learned,
    Note,
    Page,
)

Step: t.TypeAlias = Page | Doubt | Note | Plan | Learned


def steps(fetch: Fetch, plan: Plan, requests_left: RequestsLeft) -> Iterator[Step]:
    """Yield all that a run reads and finds, in order.

    Args:
        fetch: Sends a query and follows its cursor.
        plan: What the run does.
        requests_left: Tells how many requests the API still takes in this minute.

    Yields:
        Pages, doubts and notes as they come; a plan, where the rest of the run does
        something else; at the end, what was learned.
    """
    if plan.kind == QUICK:
        try:
            yield from quick(fetch, plan)
        except PageError as error:
            plan = full_scan_instead(plan, error.what)
            yield plan
        else:
            return
    in_doubt = False
    for step in _full_scan(fetch, plan, requests_left):
        if isinstance(step, Learned):
            yield from counted(plan, step, in_doubt=in_doubt)
            return
        if isinstance(step, Plan):
            plan, in_doubt = step, False
        in_doubt |= isinstance(step, Doubt)
        yield step


def _full_scan(fetch: Fetch, plan: Plan, requests_left: RequestsLeft) -> Iterator[Step]:
    if plan.mode == CREATED_DATE:
        return by_created_date(fetch, plan, plan.saved.traits)
    if plan.settings.scan_by == CURSOR:
        return only_by_cursor(fetch, plan)
    return cross_checked(fetch, plan, requests_left)

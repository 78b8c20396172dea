"""How one sync reads the list: which pages, in which order.

Every other file here is about one hazard of the API. They take pages and give pages:
nothing here knows HTTP, the SDK, or how the state is spelled.
"""

from __future__ import annotations

import typing as t

from tap_homele.sync.created import by_created_date
from tap_homele.sync.crosscheck import cross_checked
from tap_homele.sync.cursor import by_cursor

if t.TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tap_homele.sync.scan import Page, Read, Scan


def pages(
    read: Read, scan: Scan, requests_left: Callable[[], int | None]
) -> Iterator[Page]:
    """Yield all pages of a full scan, in order, and keep ``scan.progress`` up to date.

    Args:
        read: Sends a query and follows its cursor.
        scan: What it starts from, and what it has seen.
        requests_left: Tells how many requests the API still takes in this minute; None
            if it does not say.
    """
    if scan.by_created_date:
        itinerary = by_created_date(read, scan)
    elif scan.has_cross_check:
        itinerary = cross_checked(read, scan, requests_left)
    else:
        itinerary = by_cursor(read, scan)
    for page in itinerary:
        scan.progress = scan.progress.after(page)
        yield page

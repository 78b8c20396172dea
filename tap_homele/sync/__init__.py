"""How one sync reads the list: which pages, in which order.

``scan.py`` has the values and ``times.py`` how times compare; every other file is about
one hazard of the API. They take pages and return pages: nothing here sends a request,
imports the SDK or writes the state. ``state.py`` fills the scan before, and saves it
after each page.

- *sync*: one run of a stream.
- *scan*: one reading of the whole list; in several syncs, if it is interrupted.
- *bookmark*: customers that changed since then are sent. *Signpost*: the latest that
  the next bookmark may be.
- *head*: the top of the list, where customers with new activities are.
- *window*: the customers created between two days. *Margins*: the days that it asks for
  in addition.
- *walk*: what a run has read by the cursor.
- *round*: a comparison of all created dates with what the cursor returned.
- *gap*: why a customer may be missing, in words. With one, no delete is announced.
"""

from collections.abc import Iterator

from tap_homele.sync.created import Hint, by_created_date
from tap_homele.sync.crosscheck import cross_checked
from tap_homele.sync.cursor import by_cursor
from tap_homele.sync.quick import quick_or_full
from tap_homele.sync.scan import Page, Read, Scan


def pages(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield all pages of a scan, in order, and take note of each.

    Args:
        read: Sends a query and follows its cursor.
        scan: What it starts from. What was seen is added to its checkpoint, but for the
            cursor.
    """
    if scan.checkpoint.by_created_date:
        itinerary = by_created_date(read, scan, Hint())
    elif scan.is_cross_checked:
        itinerary = cross_checked(read, scan)
    else:
        itinerary = by_cursor(read, scan)
    if scan.quick_since:
        itinerary = quick_or_full(read, scan, itinerary)
    for page in itinerary:
        scan.see(page)
        yield page

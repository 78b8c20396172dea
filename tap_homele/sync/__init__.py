"""How one sync reads the list: which pages, in which order.

``scan.py`` has the values; every other file here is about one hazard of the API. They
take pages and return pages: nothing here knows HTTP, the SDK, or how the state looks.

- *sync*: one run of a stream.
- *scan*: one reading of the whole list; in several syncs, if it is interrupted.
- *head*: the top of the list, where customers with new activities are.
- *window*: the customers created between two days.
- *round*: a comparison of all created dates with what the cursor returned.
"""

from collections.abc import Iterator

from tap_homele.sync.created import by_created_date
from tap_homele.sync.crosscheck import cross_checked
from tap_homele.sync.cursor import by_cursor
from tap_homele.sync.scan import Page, Read, Scan


def pages(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield all pages of a full scan, in order, and keep its checkpoint up to date.

    Args:
        read: Sends a query and follows its cursor.
        scan: What it starts from, and what it has seen.
    """
    if scan.checkpoint.by_created_date:
        itinerary = by_created_date(read, scan)
    elif scan.is_cross_checked:
        itinerary = cross_checked(read, scan)
    else:
        itinerary = by_cursor(read, scan)
    for page in itinerary:
        # While the first page is on its way to here, the scan has no start yet.
        scan.see(page)
        yield page

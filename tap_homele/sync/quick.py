"""Quick runs: read what was active or created since the last run, and nothing else.

The list runs by last activity, so what was active is at its top. New customers may have
no activity yet and be anywhere, so they are read by created date. What a quick run does
not see are edits without an activity, and imports with old dates: the next full scan
sends them, because the bookmark stays where the last full scan has left it.
"""

import itertools
import logging
from collections.abc import Iterator

from tap_homele.errors import PageError
from tap_homele.records import utc_now
from tap_homele.sync import created
from tap_homele.sync.cursor import reread_head, without_seen
from tap_homele.sync.scan import Page, Read, Scan
from tap_homele.sync.times import OVERLAP, earlier

logger = logging.getLogger(__name__)


def decide(scan: Scan) -> None:
    """Decide whether a run is a quick one, and log it.

    Args:
        scan: As it is before the first page. ``quick_since`` is set for a quick run.
    """
    memory, now = scan.memory, utc_now().isoformat(timespec="seconds")
    oldest = earlier(now, scan.full_scan_every)
    if not scan.is_incremental:
        reason = "with FULL_TABLE each run is one"
    elif scan.checkpoint.by_created_date:
        reason = "the list is read by created date"
    elif not scan.checkpoint.bookmark or not memory.full_scan:
        reason = "none of this list has shown yet that it is sorted by last activity"
    elif not oldest < memory.full_scan <= memory.covered_until <= now:
        reason = f"the last one began at {memory.full_scan}, and now it is {now}"
    else:
        scan.quick_since = earlier(memory.covered_until, OVERLAP)
        logger.info("Quick run: what was active or new since %s.", scan.quick_since)
        return
    logger.info("Full scan: %s.", reason)


def quick_or_full(read: Read, scan: Scan, full: Iterator[Page]) -> Iterator[Page]:
    """Yield the pages of a quick run: what was active or created since the last run.

    Args:
        read: Sends a query and follows its cursor.
        scan: What it starts from.
        full: The pages of a full scan, in case that a page of the quick run fails.
    """
    since, seen = scan.quick_since, dict[int, tuple[str, str]]()
    try:
        for page in itertools.chain(reread_head(read, scan, since), new(read, scan)):
            yield without_seen(page, seen)
    except PageError as error:
        logger.warning("The quick run failed, a full scan follows: %s", error.what)
        scan.quick_since = ""
        scan.restart()
        yield from full


def new(read: Read, scan: Scan) -> Iterator[Page]:
    """Yield the customers that were created since the last run, and a day before.

    Raises:
        PageError: If a page cannot be read, or has others.
    """
    first, last = created.day_number(scan.quick_since) - 1, created.LAST_DAY + 1
    for number, page in enumerate(read(created.window_query(scan, first, last))):
        created.check_created(page, first, last)
        yield page
        if number == 1:  # the second page
            scan.gaps.append("New customers fill a page: the cursor may skip others")
    if scan.memory.undated:
        scan.warn(created.UNDATED)

"""Times as text: UTC in the one spelling of ``records.utc``, so that they compare.

An empty one is not known, and earlier than all others.
"""

import contextlib
import re
import typing as t
from datetime import datetime, timedelta

import msgspec

# A change becomes visible when its transaction commits, later than the time it carries:
# what was written shortly before a scan may be missing from it. Clocks differ by less.
OVERLAP = timedelta(minutes=5)

# The beginning of a day in some zone.
MIDNIGHT = re.compile(r"T\d\d:(00|15|30|45):00\+00:00")

# A time, as a state may hold it.
Moment: t.TypeAlias = t.Annotated[
    str, msgspec.Meta(pattern=r"\A(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00)?\Z")
]


def earlier(moment: str, span: timedelta) -> str:
    """Return the time that is so much earlier; what is not a time stays as it is."""
    with contextlib.suppress(OverflowError, ValueError):
        return (datetime.fromisoformat(moment) - span).isoformat()
    return moment


def soon_after(now: str) -> str:
    """Return the latest time that an activity can have: what is later is planned."""
    return earlier(now, -OVERLAP)


def to_second(moment: str) -> str:
    """Return a time without the parts of its second."""
    return moment[: len("2026-02-15T09:45:00")]


def to_day(moment: str) -> str:
    """Return the day of a time."""
    return moment[: len("2026-02-15")]

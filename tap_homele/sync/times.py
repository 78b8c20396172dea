"""Times as text: UTC in the one spelling of ``records.utc``, so that they compare.

An empty one is not known, and earlier than all others.
"""

import contextlib
import typing as t
from datetime import date, datetime, timedelta

import msgspec

# A change becomes visible when its transaction commits, later than the time it carries:
# what was written shortly before a scan may be missing from it. Clocks differ by less.
OVERLAP = timedelta(minutes=5)

SECOND = timedelta(seconds=1)
DAY = timedelta(days=1)

# A time, as a state may hold it.
Moment: t.TypeAlias = t.Annotated[
    str, msgspec.Meta(pattern=r"\A(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00)?\Z")
]


def earlier(moment: str, span: timedelta) -> str:
    """Return the time that is so much earlier; what is not a time stays as it is."""
    with contextlib.suppress(OverflowError, ValueError):
        return (datetime.fromisoformat(moment) - span).isoformat()
    return moment


def later(moment: str, span: timedelta) -> str:
    """Return the time that is so much later; what is not a time stays as it is."""
    return earlier(moment, -span)


def to_second(moment: str) -> str:
    """Return a time without the parts of its second."""
    return moment[: len("2026-02-15T09:45:00")]


def day_number(moment: str) -> int:
    """Return the day of a time, or a day, as a number; 0, if there is none."""
    if not moment:
        return 0
    return date.fromisoformat(moment[: len("2026-02-15")]).toordinal()

"""One pass over the list: which customers it wants, and where it leaves the bookmark.

The list is not in the order of ``updated_at`` and cannot be filtered by it (the
vendor's document). So every pass reads the whole list, and what has not changed since
the bookmark is left out here.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

if t.TYPE_CHECKING:
    from tap_homele.records import Record

# A change becomes visible when its transaction commits, which is later than the time
# that it carries. Whatever was written shortly before a scan is read once more by the
# next one.
OVERLAP = timedelta(minutes=5)


@dataclass
class Scan:
    """One pass over the list.

    Attributes:
        bookmark: Only customers changed since then are wanted; all, where it is None.
            UTC, as ``records.utc`` spells it.
        started: When the scan began, by the clock of the server. UTC.
    """

    bookmark: str | None
    started: datetime | None = None

    def begin(self, server_time: datetime | None) -> None:
        """Note when the scan began. Only the first call counts.

        Args:
            server_time: The clock of the server in the first answer. A local clock
                that runs ahead would move the bookmark past changes not yet seen.
        """
        if self.started is None:
            now = datetime.now(timezone.utc)
            self.started = min(server_time or now, now)

    @property
    def signpost(self) -> str | None:
        """The latest that the bookmark may become, or None before the scan began."""
        return (self.started - OVERLAP).isoformat() if self.started else None

    def wants(self, record: Record) -> bool:
        """Tell whether a customer changed since the bookmark.

        A new activity changes the record without an update of it. A customer that
        does not say when it was updated may have changed.

        Args:
            record: A customer, its times as ``records.utc`` spells them.
        """
        updated_at = record.get("updated_at")
        last_activity_at = record.get("last_activity_at")
        return (
            self.bookmark is None
            or updated_at is None
            or updated_at >= self.bookmark
            or (last_activity_at is not None and last_activity_at >= self.bookmark)
        )

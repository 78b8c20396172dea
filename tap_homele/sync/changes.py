"""Which customers of a page have changed, and where the next bookmark is.

A sync reads the whole list, because Homele can neither sort nor filter it by
``updated_at`` (the vendor's document). What its times look like: ``times.py``.
"""

from dataclasses import dataclass, field

from tap_homele.records import Record
from tap_homele.sync.plan import QUICK, RESUMED, Plan
from tap_homele.sync.times import OVERLAP, SECOND, earlier, later
from tap_homele.sync.values import Page, Position


def changed(page: Page, plan: Plan) -> list[Record]:
    """Return the customers of a page that are to be sent.

    A new activity changes the record without an update of it. An import can keep the
    dates of an older system, so that only its new id tells. A customer without a
    readable ``updated_at`` may have changed.
    """
    since, active_since, above = plan.since, plan.active_since, plan.above
    if not since:
        return page.records
    return [
        row
        for row in page.records
        if (row["updated_at"] or since) >= since
        or (row["last_activity_at"] or "") >= active_since
        or (above is not None and row["id"] > above)
    ]


@dataclass(kw_only=True)
class Progress:
    """How far a run is. ``get_records`` owns it, and nobody else changes it.

    Attributes:
        plan: What the run does.
        started: When the scan began, by the server's clock: ISO 8601 UTC.
        newest: The newest update or activity that was seen, up to ``cap``.
        max_id: The highest id that was seen.
        position: Where the next run would resume.
        rows_read: How many customers were read.
        rows_sent: How many of them had changed.
        rows_late: How many of them quick runs would have left to a full scan.
        doubts: Why a customer may be missing, in sentences.
    """

    plan: Plan
    started: str = ""
    newest: str = ""
    max_id: int = 0
    position: Position = field(default_factory=Position)
    rows_read: int = 0
    rows_sent: int = 0
    rows_late: int = 0
    doubts: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, plan: Plan) -> "Progress":
        """Begin with a plan, where an interrupted scan has stopped."""
        before = plan.open_scan
        return cls(
            plan=plan,
            started=before.started,
            newest=before.newest,
            max_id=before.max_id,
            position=before.position,
        )

    def change_plan(self, plan: Plan) -> None:
        """Go on with another plan. What raised doubts before does not matter any more.

        The counts are kept if the plan does not read customers again.
        """
        self.plan, self.position = plan, Position()
        self.doubts = []
        if plan.reads_anew:
            self.started, self.newest, self.max_id = "", "", 0
            self.rows_read = self.rows_sent = self.rows_late = 0

    def add(self, page: Page, sent: list[Record]) -> None:
        """Take note of a page, and of those of its customers that are sent."""
        # The server's clock: a local one that runs ahead would move the bookmark past
        # changes that are not visible yet. Of the two, the earlier is safe.
        self.started = self.started or min(page.at, self.plan.now)
        cap, rows = self.cap, page.records
        times = [t for r in rows for t in (r["updated_at"], r["last_activity_at"])]
        self.newest = max([self.newest, *(t for t in times if t and t <= cap)])
        if self.plan.kind != RESUMED and not page.is_late:
            # Who came since the scan began says nothing of others with lower ids: those
            # may be on a page that was read already.
            before = [row["id"] for row in rows if (row["created_at"] or "") < cap]
            self.max_id = max([self.max_id, *before])
        self.rows_read += len(rows)
        self.rows_sent += len(sent)
        if self.is_full_scan_of_changes:
            self.rows_late += sum(map(self._is_late, sent))

    def reach(self, page: Page) -> None:
        """Take note that all is sent up to a page."""
        self.position = page.resume_at or self.position

    def _is_late(self, row: Record) -> bool:
        """Tell whether quick runs would have left a customer to a full scan.

        That is who was neither active nor created since the bookmark, an import say, or
        was edited later than that, by more than ``OVERLAP``.
        """
        seen = max(row["last_activity_at"] or "", row["created_at"] or "")
        return later(seen, OVERLAP) < max(row["updated_at"] or "", self.plan.since)

    @property
    def is_full_scan_of_changes(self) -> bool:
        """Whether it reads all customers, and sends those that have changed."""
        return bool(self.plan.since) and self.plan.kind != QUICK

    @property
    def said(self) -> str:
        """How many customers were read and sent, in words."""
        return f"{self.rows_read:,} read, {self.rows_sent:,} changed"

    @property
    def next_run(self) -> list[str]:
        """Where the next run starts, in a sentence; none, if there is no bookmark."""
        if not (self.plan.settings.is_incremental and self.next_bookmark):
            return []
        run = "full scan" if self.plan.kind == QUICK else "run"
        return [
            f"Next {run}: changes since {self.next_bookmark.replace('+00:00', 'Z')}"
        ]

    @property
    def cap(self) -> str:
        """The latest time that the bookmark is made of; empty before the first page.

        It leaves out what can have changed without being visible, and what is planned:
        one planned activity would become the clock for all others.
        """
        return earlier(self.started, OVERLAP)

    @property
    def next_bookmark(self) -> str:
        """The bookmark that this run leaves; empty, if it has seen no time.

        One second after the newest time that was seen, so that the customer with that
        time does not come again. A quick run has not seen all that changed: it leaves
        the bookmark alone.
        """
        if self.plan.kind == QUICK:
            return self.plan.old_bookmark
        newest = later(self.newest, SECOND) if self.newest else ""
        if self.rows_read and not newest and not self.plan.since:
            newest = self.cap  # all that was seen is later
        return min(max(newest, self.plan.since), later(self.cap, SECOND))

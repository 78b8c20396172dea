"""One scan of the list: who is wanted, where it can resume, when it is closed.

The list cannot be sorted or filtered by ``updated_at`` (the vendor's document), it runs
by ``last_activity_at``, and it moves while it is read: a customer with a new activity
jumps to the top, past a reader on the way down. So a scan reads the whole list once,
and then its head again until nothing can have slipped by.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import typing as t
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from tap_homele.records import utc

if t.TYPE_CHECKING:
    from tap_homele.records import Record

# A change becomes visible when its transaction commits, which is later than the time
# that it carries. Whatever was written shortly before a scan may have been missed.
OVERLAP = timedelta(minutes=5)

# The same for what moves while the head of the list is read, and read again. It is
# shorter, so that a busy list comes to an end.
LAG = timedelta(minutes=1)

# How ``records.utc`` spells the beginning of a day.
MIDNIGHT = "T00:00:00+00:00"

# An interrupted scan that began longer ago is read anew: too much has moved since.
RESUMABLE = timedelta(days=7)

# Each reading of the head makes up for what moved during the one before, and is
# shorter. If the head still does not hold still, the list is busier than we are fast.
MAX_ROUNDS = 10


def local_time() -> datetime:
    """Give the clock of this machine, in UTC."""
    return datetime.now(timezone.utc)


def fingerprint(url: str, filters: t.Mapping[str, t.Any]) -> str:
    """Give a mark that tells one list from another.

    Args:
        url: The address that is asked.
        filters: The filters that are sent. They may hold a person's name, so the mark
            is a digest.
    """
    text = json.dumps([url, filters], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Details:
    """Whose details a scan has asked for, and who is still to be asked.

    It takes a few bits for each customer.

    Attributes:
        owed: The ids of customers that were sent on, and whose details were not; and
            whether it was this run that wanted them.
        missing: Those who had none, and whether it was this run that found so. Whoever
            a later run finds in the list is asked for again, and nobody else.
    """

    # So many ids are the bits of one number.
    _CHUNK = 1024

    def __init__(self) -> None:
        """Begin with nobody."""
        self.owed: dict[int, bool] = {}
        self.missing: dict[int, bool] = {}
        self._asked: dict[int, int] = {}

    def __contains__(self, customer_id: int) -> bool:
        """Tell whether a customer was asked for."""
        chunk, bit = divmod(customer_id, self._CHUNK)
        asked = self._asked.get(chunk, 0) >> bit & 1
        return bool(asked) or self.missing.get(customer_id, False)

    def add(self, customer_id: int) -> None:
        """Take note that the details of a customer were sent on."""
        self.owed.pop(customer_id, None)
        chunk, bit = divmod(customer_id, self._CHUNK)
        self._asked[chunk] = self._asked.get(chunk, 0) | 1 << bit

    def miss(self, customer_id: int) -> None:
        """Take note that a customer has no details."""
        self.owed.pop(customer_id, None)
        self.missing[customer_id] = True

    def look_for(self, page: list[Record]) -> None:
        """Owe the details to whom an earlier run has missed, and who is in the list."""
        for record in page if self.missing else ():
            if self.missing.get(record["id"]) is False:
                del self.missing[record["id"]]
                self.owed[record["id"]] = False

    def __bool__(self) -> bool:
        """Tell whether there is anybody."""
        return bool(self._asked or self.owed)

    def state(self) -> dict[str, t.Any]:
        """Give it as it stands in a checkpoint."""
        ids = sorted(
            chunk * self._CHUNK + bit
            for chunk, bits in self._asked.items()
            for bit in range(bits.bit_length())
            if bits >> bit & 1
        )
        # How far each is from the one before: small numbers, which compress well.
        steps = " ".join(str(b - a) for a, b in itertools.pairwise([0, *ids]))
        asked = base64.b64encode(zlib.compress(steps.encode())).decode()
        return {
            "asked": asked if ids else "",
            "owed": [*self.owed],
            "missing": [*self.missing],
        }

    @classmethod
    def resume(cls, state: dict[str, t.Any]) -> Details:
        """Take it from a checkpoint.

        Args:
            state: What ``state`` gave.

        Raises:
            ValueError: If it is something else (or another error of that kind).
        """
        details = cls()
        if state["asked"]:
            steps = zlib.decompress(base64.b64decode(state["asked"])).decode().split()
            for customer_id in itertools.accumulate(map(int, steps)):
                details.add(customer_id)
        details.owed = {int(customer_id): False for customer_id in state["owed"]}
        details.missing = {int(customer_id): False for customer_id in state["missing"]}
        return details


@dataclass
class Scan:
    """One scan: a pass over the whole list, and then over its head.

    All times are UTC, as ``records.utc`` spells them, and compare as strings.

    Attributes:
        bookmark: Only customers changed since then are wanted; all, where it is None.
        asked: The fingerprint of the list.
        started: When the scan began, by the server's clock.
        newest: The newest ``updated_at`` seen so far.
        cursor: Where the pass over the list begins, None for its top.
        windows: Where a reading by windows begins, as ``Windows.resume`` takes it.
        details: Whose details this scan has asked for, in earlier runs too.
        closed: Whether nothing can have slipped by.
    """

    bookmark: str | None
    asked: str
    started: str | None = None
    newest: str | None = None
    cursor: str | None = None
    windows: dict[str, t.Any] | None = None
    details: Details = field(default_factory=Details)
    closed: bool = False

    # The pass: how many pages and customers it has read, when it began, and the last
    # activity down to which it reads the head; None for the first, over the whole list.
    pages: int = 0
    customers: int = 0
    pass_started: str | None = None
    previous_pass_started: str | None = None
    limit: str | None = None
    limit_reached: bool = False
    # From the first customer on that may have moved to where it is: how many pages.
    moving: bool = False
    moving_pages: int = 0

    # The order of the list, as far as this run has seen it.
    by_last_activity: bool = True
    by_day: bool = False
    nulls_last: bool = False
    nulls_first: bool = False
    previous: str | None = None

    # The last customer seen: last activity ("" for none) and id, as the list is sorted.
    edge: tuple[str, int] | None = None
    rounds: int = field(default=0, repr=False)

    @property
    def signpost(self) -> str | None:
        """The latest that the bookmark may become, None before the first answer."""
        if self.started is None:
            return None
        return _before(self.started, OVERLAP)

    @property
    def resumed(self) -> bool:
        """Whether the pass over the list began in an earlier run."""
        return self.cursor is not None

    @property
    def resuming(self) -> bool:
        """Whether the next page is the first one after an interruption."""
        return self.resumed and not self.pages and not self.over_head

    @property
    def over_head(self) -> bool:
        """Whether this pass is over the head of the list, after the whole of it."""
        return self.limit is not None

    # A page.

    def begin_page(self, server_time: datetime | None, page: list[Record]) -> None:
        """Take note of the clocks at the beginning of a pass, and of a page.

        Args:
            server_time: The server's clock. The scan begins by it, since a local clock
                that runs ahead would move the bookmark past changes not yet seen; by
                the local one only where the server's is missing or later.
            page: The customers of the page.
        """
        if self.pages == 0:
            # Whole seconds, as the server's: the API may write times without more.
            now = local_time().replace(microsecond=0)
            self.pass_started = (server_time or now).isoformat()
            if self.started is None:
                self.started = min(server_time or now, now).isoformat()
        if self.over_head and not self.pages and page:
            self.nulls_first = page[0].get("last_activity_at") is None
        self.customers += len(page)
        times = [at for record in page if (at := record.get("last_activity_at"))]
        self.by_day = bool(times) and all(at.endswith(MIDNIGHT) for at in times)

    def sees(self, record: Record) -> bool:
        """Take note of a customer, and tell whether it is wanted.

        A new activity changes the record without an update of it. A customer that
        does not say when it was updated may have changed.

        Args:
            record: A customer, its times as ``records.utc`` spells them.
        """
        updated_at = record.get("updated_at")
        last_activity_at = record.get("last_activity_at")
        if updated_at and (self.newest is None or updated_at > self.newest):
            self.newest = updated_at
        self._note_order(last_activity_at)
        self.edge = (last_activity_at or "", record["id"])
        active_until = self._latest(last_activity_at)
        if self.limit is not None:
            if active_until < self.limit:
                # It has not moved since the scan began, in this run or an earlier one,
                # so the first pass has seen it where it is.
                return False
            self.moving = self.moving or not self._is_ahead(last_activity_at)
        return (
            self.bookmark is None
            or updated_at is None
            or updated_at >= self.bookmark
            or active_until >= self.bookmark
        )

    def lacks_details(self, record: Record) -> bool:
        """Tell whether the details of a customer are to be asked for.

        Each customer is asked for once in a scan, and again if it has changed since the
        pass began in which it was. What changes after that, or becomes visible late,
        is wanted by the next scan.

        Args:
            record: A customer that is wanted.
        """
        if record["id"] not in self.details:
            return True
        since = self.previous_pass_started or self.started or ""
        times = (record.get("updated_at"), record.get("last_activity_at"))
        return any(at and at > since and not self._is_ahead(at) for at in times)

    def _latest(self, last_activity_at: str | None) -> str:
        """Give the latest that a last activity can have been: a day, until its end.

        The cursor in the vendor's document holds a day, and the list may do so too.
        """
        at = last_activity_at or ""
        return at.replace(MIDNIGHT, "T23:59:59.999999+00:00") if self.by_day else at

    def _is_ahead(self, last_activity_at: str | None) -> bool:
        """Tell whether a last activity is ahead of all clocks: nobody moves there."""
        return (last_activity_at or "") > _before(self.pass_started or "", -OVERLAP)

    def _note_order(self, last_activity_at: str | None) -> None:
        if last_activity_at is None:
            # Databases sort those without an activity to one end or to the other. After
            # one with an activity, it is the lower end, and nothing newer follows.
            self.nulls_last = self.nulls_last or self.previous is not None
            self.limit_reached = self.limit_reached or self.nulls_last
            return
        # The list may be sorted by parts of a second that the API does not write.
        seconds = slice(len("2026-02-15T09:45:00"))
        if self.previous and last_activity_at[seconds] > self.previous[seconds]:
            self.by_last_activity = False
        self.previous = last_activity_at
        if self.limit and self._latest(last_activity_at) < self.limit:
            self.limit_reached = True

    def end_page(self) -> None:
        """Count a page that was read to its end."""
        self.pages += 1
        self.moving_pages += self.moving

    @property
    def enough(self) -> bool:
        """Whether the rest of the list is not needed: it was the head that moves."""
        return self.over_head and self.limit_reached

    # The end of a pass.

    def reopen(self) -> bool:
        """Go back to the top of the list, unless the scan is closed or cannot be.

        Customers that moved while a pass was read sit at the top. The first pass over
        the head goes down to the signpost; each other makes up for what moved during
        the one before it.

        Returns:
            Whether the head is to be read, down to ``limit``.
        """
        # One page is read at once, so nothing moves during it.
        if self.over_head:
            self.closed = self.moving_pages <= 1
        else:
            # Of a pass that was resumed, one page is only the last.
            self.closed = self.pages <= 1 and not self.resumed
        if self.closed or not self.by_last_activity or self.rounds == MAX_ROUNDS:
            return False
        if self.previous is None and not self.resumed:
            # In the whole list nobody has an activity. Whoever has one now is at the
            # top, and ends with the first who has none; or is below, and was seen.
            self.nulls_last = True
        if self.over_head:
            self.previous_pass_started = self.pass_started
        self.limit = (
            _before(self.pass_started or "", LAG) if self.over_head else self.signpost
        )
        self.limit_reached = self.moving = False
        self.previous = None
        self.pages = self.customers = self.moving_pages = 0
        self.rounds += 1
        return True

    def within(self) -> Scan:
        """Begin with a part of the list, or from its top again, in this same scan.

        The start stays: whoever was asked for details, and has changed since, belongs
        to the next scan.
        """
        return Scan(
            self.bookmark,
            self.asked,
            self.started,
            self.newest,
            details=self.details,
        )

    # Between runs.

    def checkpoint(
        self,
        next_cursor: str | None = None,
        windows: dict[str, t.Any] | None = None,
    ) -> dict[str, t.Any]:
        """Give what a later run needs to go on at a page.

        Args:
            next_cursor: The cursor of the page, None where there is none.
            windows: The windows that are left, where it reads by windows.
        """
        return {
            "cursor": next_cursor,
            "windows": windows,
            "details": self.details.state(),
            "edge": list(self.edge) if self.edge else None,
            "started": self.started,
            "newest": self.newest,
            "bookmark": self.bookmark,
            "asked": self.asked,
        }

    def resume(self, checkpoints: t.Any) -> None:
        """Go on where an earlier run was interrupted.

        The start of the scan carries over, and so does the signpost: what changed
        since, on pages that the earlier run has read, comes with the next scan. The
        bookmark carries over where it is the earlier one: a full refresh that was
        interrupted is owed to the end, and Meltano keeps the bookmark of before beside
        its checkpoint.

        Args:
            checkpoints: A list with what ``checkpoint`` gave, from the state, which can
                have been edited.

        Raises:
            ValueError: If the list is better read from the top, with the reason.
        """
        try:
            (checkpoint,) = checkpoints
            cursor = checkpoint["cursor"]
            started = utc(checkpoint["started"])
            newest = checkpoint["newest"] and utc(checkpoint["newest"])
            edge = checkpoint["edge"] and (
                str(checkpoint["edge"][0]),
                int(checkpoint["edge"][1]),
            )
            bookmark = checkpoint["bookmark"] and utc(checkpoint["bookmark"])
            windows = checkpoint["windows"]
            details = Details.resume(checkpoint["details"])
            same_list = checkpoint["asked"] == self.asked
        except (LookupError, TypeError, ValueError, AttributeError, zlib.error):
            raise ValueError("its checkpoint is unreadable") from None
        if not started or not (cursor is None or (isinstance(cursor, str) and cursor)):
            raise ValueError("its checkpoint is unreadable")
        owed = (bookmark or "") <= (self.bookmark or "")
        if owed:
            self.bookmark = bookmark
        if not same_list:
            raise ValueError("it read with other filters, or from another address")
        if not owed:
            raise ValueError("it began at a later bookmark")
        if cursor is None and windows is None and not details:
            raise ValueError("it was on the first page")
        if local_time() - datetime.fromisoformat(started) > RESUMABLE:
            raise ValueError(f"it began more than {RESUMABLE.days} days ago")
        self.cursor, self.windows, self.started = cursor, windows, started
        self.newest, self.edge = newest, edge
        self.details = details

    def follows(self, record: Record) -> bool:
        """Tell whether a page goes on where an earlier run was interrupted.

        A server that cannot read a cursor gives the first page, without an error
        (Laravel). The first customer of that page comes before. It can look so, too,
        where the list is sorted by more than the API writes.

        Args:
            record: The first customer of the page.
        """
        if not self.resuming or self.edge is None:
            return True
        return (record.get("last_activity_at") or "", record["id"]) < self.edge


def _before(moment: str, span: timedelta) -> str:
    return (datetime.fromisoformat(moment) - span).isoformat()

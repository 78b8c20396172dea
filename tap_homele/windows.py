"""The list by windows of the created date: a check of the cursor, and a way without it.

Stock Laravel loses customers without a last activity from every page after the first
where the database is MySQL or SQLite, and those that share the second of the cursor
where the column has parts of a second. A created date does not change, so a window of
created dates that fits on one page needs no cursor: nobody hides there, nobody moves.

Whether the filters ``date_from`` and ``date_to`` include their own day, and in whose
time zone a day begins, is not documented. So each window is asked for with a day more
at both ends: neighbours overlap, and the same customer twice does no harm.
"""

from __future__ import annotations

import bisect
import itertools
import re
import typing as t
from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

if t.TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tap_homele.records import Record

# How full a page is meant to be: days differ.
FILL = 0.85

# A window of fewer days than these does without the days beside it, where it may.
SHORT = 10

# A window is at most so many times as long as the one before.
GROWTH = 3

# The most requests that the check of a whole list costs.
CHECKS = 5

# If so many numbers are missing for each that is there, it is no running number.
SPARSE = 20


@dataclass(frozen=True)
class Window:
    """Customers created from one day to another, both included.

    Attributes:
        first: The first day, None for no bound.
        last: The last day, None for no bound.
        overlap: How many days more are asked for at both ends.
        by_cursor: Whether it is read to its end with the cursor, though it has more
            customers than fit on a page: its one day cannot be divided.
    """

    first: date | None = None
    last: date | None = None
    overlap: int = 1
    by_cursor: bool = False

    @property
    def asked(self) -> tuple[date | None, date | None]:
        """The days that are asked for, neighbours included."""
        return (
            self.first and _shift(self.first, -self.overlap),
            self.last and _shift(self.last, self.overlap),
        )

    @property
    def is_day(self) -> bool:
        """Whether it is a single day."""
        return self.first is not None and self.first == self.last

    def strays(self, page: list[Record]) -> bool:
        """Tell whether a page holds customers that were not asked for.

        Args:
            page: The customers of a page of this window. A day more at both ends is
                allowed for, whatever the time zone.
        """
        first, last = self.asked
        earliest, latest = first and _shift(first, -1), last and _shift(last, 1)
        return any(
            (earliest is not None and day < earliest)
            or (latest is not None and day > latest)
            for day in filter(None, map(created, page))
        )

    def includes_its_ends(self, page: list[Record]) -> bool:
        """Tell whether a page shows that the filters include their own day.

        Then its customers are further apart than the days that were asked for,
        whatever the time zone. (A day can be an hour longer than another.)

        Args:
            page: The customers of a page of this window.
        """
        first, last = self.asked
        times = [at for record in page if (at := record.get("created_at"))]
        if first is None or last is None or not times:
            return False
        # They are spelled alike, so they compare as strings.
        apart = datetime.fromisoformat(max(times)) - datetime.fromisoformat(min(times))
        return apart > last - first + timedelta(hours=1)

    def __str__(self) -> str:
        """Give the days in words."""
        if self.is_day:
            return str(self.first)
        return f"{self.first or 'the first day'} to {self.last or 'today'}"


def created(record: Record) -> date | None:
    """Give the day, in UTC, on which a customer was created, if it is known."""
    at = record.get("created_at")
    return date.fromisoformat(at[:10]) if at else None


@dataclass
class Windows:
    """Goes through all created dates, the newest first.

    ``next`` gives a window, ``answered`` is told what its first page held, and so on,
    until there is none left. The days that are left, ``rest``, are all that a later run
    needs to go on.

    Attributes:
        page_size: How many customers fit on a page.
        rest: What is still to be read, from one day to another, the newest last.
        per_day: How many customers are created in a day, as far as is known; None: it
            is asked for all that is left.
    """

    page_size: int
    rest: list[tuple[date | None, date | None]] = field(
        default_factory=lambda: [(None, None)]
    )
    per_day: float | None = None

    _window: Window = field(default_factory=Window)
    # The longest that the next window may be, in days.
    _longest: int = date.max.toordinal()
    # Whether the filters have shown that they include their own day.
    _inclusive: bool = False
    _by_cursor: bool = False
    # Between which days somebody is known to have been created.
    _known: tuple[date, date] | None = None
    # Where the window without a first day ended that did not fit on a page.
    _unbounded: date | None = None

    def next(self, today: date) -> Window | None:
        """Give the window to read next, None when all are read.

        Args:
            today: What is created later, by a clock that is ahead, belongs to the
                first window.
        """
        if not self.rest:
            return None
        first, last = self.rest[-1]
        if self.per_day is None:
            self._window = Window(first, last)
            return self._window
        days, overlap = self._length(self.per_day)
        end = last or max(first or date.min, self._newest(today))
        start = _shift(end, 1 - days)
        if first is not None:
            first = max(first, start)
        elif end == self._unbounded or (self._known and start > self._known[0]):
            first = start
        self._window = Window(first, last, overlap, self._by_cursor)
        return self._window

    def _newest(self, today: date) -> date:
        """Give where the first window ends that has a first day."""
        return min(today, self._known[1]) if self._known else today

    def _length(self, per_day: float) -> tuple[int, int]:
        """Give how many days a window has, and how many more at both ends."""
        days = int(FILL * self.page_size / max(per_day, 0.001))
        if self._inclusive and days < SHORT:
            # The days beside it would be most of it, and nobody could be in between.
            return max(1, min(days, self._longest)), 0
        return max(1, min(days - 2, self._longest)), 1

    def answered(self, page: list[Record], *, more: bool, today: date) -> None:
        """Take note of the first page of the window that was given last.

        Args:
            page: Its customers.
            more: Whether they are not all.
            today: As for ``next``.
        """
        days = [*filter(None, map(created, page)), *(self._known or ())]
        self._known = (min(days), max(days)) if days else None
        self._inclusive = self._inclusive or self._window.includes_its_ends(page)
        if more and not self._window.by_cursor:
            self._divide(page, today)
        else:
            self._strike(len(page), today)

    def _divide(self, page: list[Record], today: date) -> None:
        """Make the next window shorter: there are more customers than fit on a page."""
        first, last = self._window.first, self._window.last
        self.per_day = max(self.per_day or 0, _per_day(page))
        if first is None:
            self._unbounded = last or self._newest(today)
        elif last is None and first >= self._newest(today):
            # Nobody is expected later. If somebody is: as far ahead as it takes.
            until = _shift(first, (first - today).days if first > today else 0)
            self.rest[-1:] = [(self.rest[-1][0], until), (_shift(until, 1), None)]
            self._by_cursor = until == date.max
        elif not self._window.is_day:
            self._longest = max(
                1, ((last or self._newest(today)) - first).days * 2 // 3
            )
        elif self._window.overlap and self._inclusive:
            self.per_day, self._longest = max(self.per_day, self.page_size / SHORT), 1
        else:
            self._by_cursor = True

    def _strike(self, found: int, today: date) -> None:
        """Strike the window that was read from what is left."""
        window = self._window
        self._by_cursor = False
        first, _ = self.rest.pop()
        if window.first is None:
            return
        if first != window.first:
            self.rest.append((first, _shift(window.first, -1)))
        days = max(1, ((window.last or self._newest(today)) - window.first).days + 1)
        per_day = found / (days + 2 * window.overlap)
        self.per_day = (per_day + (self.per_day or per_day)) / 2
        self._longest = days * GROWTH

    def checkpoint(self) -> dict[str, t.Any]:
        """Give what a later run needs to go on."""
        return {
            "per_day": self.per_day,
            "rest": [[day and day.isoformat() for day in ends] for ends in self.rest],
        }

    @classmethod
    def resume(cls, page_size: int, checkpoint: t.Any) -> Windows:
        """Go on where an earlier run was interrupted.

        Args:
            page_size: How many customers fit on a page.
            checkpoint: What ``checkpoint`` gave.

        Raises:
            ValueError: If it is not that: a state can have been edited.
        """
        try:
            per_day = checkpoint["per_day"]
            rest = [
                (first and date.fromisoformat(first), last and date.fromisoformat(last))
                for first, last in checkpoint["rest"]
            ]
            return cls(page_size, rest, None if per_day is None else float(per_day))
        except (TypeError, KeyError, ValueError):
            raise ValueError("its checkpoint is unreadable") from None


class Seen:
    """Whom a reading of the list has seen, against which windows are compared.

    It keeps three numbers for each customer, 20 bytes.
    """

    def __init__(self, page_size: int, since: date | None = None) -> None:
        """Begin.

        Args:
            page_size: How many customers fit on a page.
            since: Only customers created since then are compared; None: all.
        """
        self._page_size = page_size
        self._since = since
        self._ids = array("q")
        self._numbers = array("q")
        self._days = array("l")

    def add(self, page: list[Record]) -> None:
        """Take note of the customers of a page."""
        for record in page:
            day = created(record)
            # Those of the days before are shown as well, whatever the time zone.
            if self._since and day and day < _shift(self._since, -2):
                continue
            self._ids.append(record["id"])
            self._numbers.append(record.get("sequential_number") or 0)
            self._days.append(day.toordinal() if day else 0)

    def lacks(
        self, window: Window, page: list[Record], *, more: bool, before: str
    ) -> bool:
        """Tell whether a window has customers that were not seen.

        Args:
            window: The window.
            page: The customers of its first page.
            more: Whether they are not all.
            before: Whoever was created later, in UTC, may be new.
        """
        old = {r["id"] for r in page if (r.get("created_at") or before) < before}
        if old.difference(self._ids):
            return True
        first, last = window.asked
        if not more or last is None:
            return False
        # Whatever the time zone, and with neighbours or without.
        low = first.toordinal() - 1 if first else 0
        high = last.toordinal() + 1
        return sum(low <= day <= high for day in self._days) < self._page_size

    def windows(self, dice: random.Random) -> Iterator[Window]:
        """Choose the windows that show a loss, if there is one.

        Where only those created lately are compared, it is the newest that fit on a
        page. Of a whole list it is the newest and the oldest, those around the largest
        gap in the running number, and others at random: four pages of 85 leave a loss
        of 2 % unseen once in a thousand times. Where the running number has no gap,
        nobody can be missing but at the ends.

        Args:
            dice: Chooses.
        """
        known = _Days(self._days)
        if not known:
            yield Window(self._since)
            return
        most = max(1, int(FILL * self._page_size))
        newest = known.around(known.last, known.last, most)
        if self._since:
            fits = known.count(self._since.toordinal(), known.last) <= most
            yield Window(self._since if fits else newest.first)
            return
        yield Window(newest.first, None, newest.overlap)
        oldest = known.around(known.first, known.first, most)
        yield Window(None, oldest.last, oldest.overlap)
        gap = self._largest_gap()
        if gap is None:
            return
        if gap:
            yield known.around(*gap, most)
        for _ in range(CHECKS - 2 - bool(gap)):
            day = dice.choice(self._days) or known.last
            yield known.around(day, day, most)

    def _largest_gap(self) -> tuple[int, int] | tuple[()] | None:
        """Give the days on which the customers around it were created.

        Returns:
            None, if there is no gap; nothing, if the number does not run.
        """
        low, high = min(self._numbers), max(self._numbers)
        if low <= 0 or high - low > SPARSE * len(self._numbers):
            return ()
        taken = bytearray(high - low + 1)
        for number in self._numbers:
            taken[number - low] = 1
        gaps = re.finditer(b"\0+", taken)
        gap = max(gaps, key=lambda found: len(found[0]), default=None)
        if gap is None:
            return None
        before, after = (
            self._days[self._numbers.index(low + at)]
            for at in (gap.start() - 1, gap.end())
        )
        return min(before, after), max(before, after)


class _Days:
    """How many customers were created on which day, by the days' ordinals."""

    def __init__(self, days: t.Iterable[int]) -> None:
        counted = Counter(days)
        del counted[0]  # unknown
        self._days = sorted(counted)
        self._before = [0, *itertools.accumulate(counted[day] for day in self._days)]

    def __bool__(self) -> bool:
        return bool(self._days)

    @property
    def first(self) -> int:
        return self._days[0]

    @property
    def last(self) -> int:
        return self._days[-1]

    def count(self, first: int, last: int) -> int:
        """Give how many were created from one day to another, both included."""
        low = bisect.bisect_left(self._days, first)
        return self._before[bisect.bisect_right(self._days, last)] - self._before[low]

    def around(self, first: int, last: int, most: int) -> Window:
        """Make a window around some days, as long as it has that many customers."""
        overlap = int(self.count(first - 1, last + 1) <= most)
        low = bisect.bisect_left(self._days, first)
        high = bisect.bisect_right(self._days, last)
        while True:
            wider = [(day, last) for day in self._days[max(0, low - 1) : low]]
            wider += [(first, day) for day in self._days[high : high + 1]]
            fitting = [
                ends
                for ends in wider
                if self.count(ends[0] - overlap, ends[1] + overlap) <= most
            ]
            if not fitting:
                break
            first, last = min(fitting, key=lambda ends: self.count(*ends))
            low = bisect.bisect_left(self._days, first)
            high = bisect.bisect_right(self._days, last)
        return Window(date.fromordinal(first), date.fromordinal(last), overlap)


def _per_day(page: list[Record]) -> float:
    """Estimate from some customers how many are created in a day."""
    days = [*filter(None, map(created, page))]
    numbers = [*filter(None, (record.get("sequential_number") for record in page))]
    if not days:
        return len(page)
    span = (max(days) - min(days)).days + 1
    total = max(numbers) - min(numbers) + 1 if numbers else 0
    return max(total, 2 * len(page)) / span


def _shift(day: date, days: int) -> date:
    """Go so many days ahead, or back, as far as there are days."""
    ordinal = day.toordinal() + days
    return date.fromordinal(
        min(max(ordinal, date.min.toordinal()), date.max.toordinal())
    )

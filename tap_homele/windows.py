"""The list by windows of the created date: a check of the cursor, and a way without it.

Stock Laravel loses customers without a last activity from every page after the first
where the database is MySQL or SQLite, and those that share the second of the cursor
where the column has parts of a second. A created date does not change, so a window of
created dates that fits on one page needs no cursor: nobody hides there, nobody moves.

Whether the filters ``date_from`` and ``date_to`` include their own day, and in whose
time zone a day begins, is not documented. So each window is asked for with a day more
at both ends, until an answer shows that fewer will do: neighbours overlap, and the same
customer twice does no harm.
"""

from __future__ import annotations

import bisect
import itertools
import typing as t
from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import NamedTuple

if t.TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from tap_homele.records import Record

# How full a page is meant to be: days differ.
FILL = 0.85

# A window of fewer days than these does without the days beside it, where it may.
SHORT = 10

# The days beside it that are asked for as long as nothing is known of the filters.
BOTH_ENDS = 2

# A window is at most so many times as long as the one before.
GROWTH = 3

# The most requests that the check of a whole list costs.
CHECKS = 5

# The check asks for as many customers as the API gives at once, and leaves some room.
CHECK_PAGE = 100
CHECK_FILL = 0.95

# The better of so many draws is checked.
DRAWS = 5

# What may be missing from days that cannot be checked, before it is said.
UNCHECKED = 0.02

# If so many numbers are missing for each that is there, it is no running number.
SPARSE = 3


@dataclass(frozen=True)
class Window:
    """Customers created from one day to another, both included.

    Attributes:
        first: The first day, None for no bound.
        last: The last day, None for no bound.
        overlap: How many days more are asked for: 2, one at each end; 1, where one of
            the filters leaves out its own day; or none.
        by_cursor: Whether it is read to its end with the cursor, though it has more
            customers than fit on a page: its one day cannot be divided.
    """

    first: date | None = None
    last: date | None = None
    overlap: int = BOTH_ENDS
    by_cursor: bool = False

    @property
    def asked(self) -> tuple[date | None, date | None]:
        """The days that are asked for, neighbours included."""
        return (
            self.first and _shift(self.first, -(self.overlap // 2)),
            self.last and _shift(self.last, (self.overlap + 1) // 2),
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

    def left_out(self, page: list[Record]) -> int:
        """Tell how many days the filters leave out at most, of those asked for.

        A page whose customers are further apart than all days but one shows that both
        filters include their own day, whatever the time zone; further apart than all
        but two, that one does. (A day can be an hour longer than another.)

        Args:
            page: The customers of a page of this window.
        """
        first, last = self.asked
        times = [at for record in page if (at := record.get("created_at"))]
        if first is None or last is None or not times:
            return BOTH_ENDS
        # They are spelled alike, so they compare as strings.
        apart = datetime.fromisoformat(max(times)) - datetime.fromisoformat(min(times))
        apart -= timedelta(hours=1)
        return sum(
            apart <= last - first - timedelta(days=days) for days in range(BOTH_ENDS)
        )

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
        too_full: The days that were read by the cursor, which may hide customers.
        cut_off: Those of them whose rest could not be had.
        undated: Whether there are customers without a created date.
    """

    page_size: int
    rest: list[tuple[date | None, date | None]] = field(
        default_factory=lambda: [(None, None)]
    )
    per_day: float | None = None
    too_full: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    undated: bool = False

    _window: Window = field(default_factory=Window)
    # The longest that the next window may be, in days.
    _longest: int = date.max.toordinal()
    # How many days the filters leave out of those asked for, at most.
    _left_out: int = BOTH_ENDS
    _by_cursor: bool = False
    # Whether only those without a created date are left, before the first day.
    _undated: bool = False
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
        elif not self._undated and (
            end == self._unbounded or (self._known and start > self._known[0])
        ):
            first = start
        self._window = Window(first, last, overlap, self._by_cursor)
        return self._window

    def _newest(self, today: date) -> date:
        """Give where the first window ends that has a first day."""
        return min(today, self._known[1]) if self._known else today

    def _length(self, per_day: float) -> tuple[int, int]:
        """Give how many days a window has, and how many more at both ends."""
        days = int(FILL * self.page_size / max(per_day, 0.001))
        if self._left_out < BOTH_ENDS and days < SHORT:
            # The days beside it would be most of it, and nobody could be in between.
            return max(1, min(days, self._longest)), self._left_out
        return max(1, min(days - BOTH_ENDS, self._longest)), BOTH_ENDS

    def answered(self, page: list[Record], *, more: bool, today: date) -> None:
        """Take note of the first page of the window that was given last.

        Args:
            page: Its customers.
            more: Whether they are not all.
            today: As for ``next``.
        """
        days = [*filter(None, map(created, page)), *(self._known or ())]
        self._known = (min(days), max(days)) if days else None
        self._left_out = min(self._left_out, self._window.left_out(page))
        if more and not self._window.by_cursor:
            self._divide(page, today)
        else:
            self._strike(len(page), today)

    def _divide(self, page: list[Record], today: date) -> None:
        """Make the next window shorter: there are more customers than fit on a page."""
        first, last = self._window.first, self._window.last
        self.per_day = max(self.per_day or 0, _per_day(page))
        if first is None and not (any(map(created, page)) and last != date.min):
            # Those without a created date, as MySQL's zero, come before all days.
            self._undated = self._by_cursor = True
        elif first is None:
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
        elif self._window.overlap > self._left_out:
            self.per_day, self._longest = max(self.per_day, self.page_size / SHORT), 1
        else:
            self._by_cursor = True

    def _strike(self, found: int, today: date) -> None:
        """Strike the window that was read from what is left."""
        window = self._window
        self._by_cursor = False
        first, _ = self.rest.pop()
        if window.first in {None, date.min}:
            return
        if first != window.first:
            self.rest.append((first, _shift(window.first, -1)))
        days = max(1, ((window.last or self._newest(today)) - window.first).days + 1)
        per_day = found / (days + window.overlap)
        self.per_day = (per_day + (self.per_day or per_day)) / 2
        self._longest = days * GROWTH

    def checkpoint(self) -> dict[str, t.Any]:
        """Give what a later run needs to go on."""
        return {
            "per_day": self.per_day,
            "rest": [[day and day.isoformat() for day in ends] for ends in self.rest],
            "too_full": self.too_full,
            "cut_off": self.cut_off,
            "undated": self.undated,
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
            return cls(
                page_size,
                rest,
                None if per_day is None else float(per_day),
                [*map(str, checkpoint["too_full"])],
                [*map(str, checkpoint["cut_off"])],
                bool(checkpoint["undated"]),
            )
        except (TypeError, KeyError, ValueError):
            raise ValueError("its checkpoint is unreadable") from None


# What four bytes hold.
LARGE = 2**31


class Seen:
    """Whom a reading of the list has seen, against which windows are compared.

    It keeps three numbers for each customer, 16 bytes.
    """

    def __init__(self, since: date | None = None) -> None:
        """Begin.

        Args:
            since: Only customers created since the day before are compared; None: all.
        """
        self._since = since and _shift(since, -1)
        self._ids = array("q")
        self._numbers = array("i")
        self._days = array("i")
        # Where a reading was resumed: the last customer that an earlier run has seen,
        # as the list is sorted, and whether those without an activity come first.
        self.edge: tuple[str, int] | None = None
        self.nulls_first = False
        # The most customers that a window may have, and how many days the filters are
        # taken to leave out of those that are asked for.
        self._most = int(CHECK_FILL * CHECK_PAGE)
        self._left_out = 0

    def add(self, page: list[Record]) -> None:
        """Take note of the customers of a page."""
        for record in page:
            day = created(record)
            # Those of the days before are shown as well, whatever the time zone.
            if self._since and day and day < _shift(self._since, -2):
                continue
            self._ids.append(record["id"])
            number = record.get("sequential_number") or 0
            # A number that is as large as this does not run.
            self._numbers.append(number if abs(number) < LARGE else 0)
            self._days.append(day.toordinal() if day else 0)

    def lacks(
        self, window: Window, page: list[Record], *, more: bool, before: str
    ) -> bool:
        """Tell whether a window has customers that should have been seen, and were not.

        Args:
            window: The window.
            page: The customers of its first page.
            more: Whether they are not all.
            before: Whoever was created, or changed, later, in UTC, may be new there.
        """
        if more and self.edge:
            self._most = max(1, self._most // 2)
        elif more:
            self._left_out = 0
        elif not page and window.overlap < BOTH_ENDS:
            self._left_out = window.overlap + 1
        elif page and self._seems_to_leave_out(window, page):
            self._left_out = max(1, self._left_out)
        expected = {
            record["id"]
            for record in page
            if not any(
                (record.get(name) or "") >= before
                for name in ("created_at", "updated_at", "last_activity_at")
            )
            and not self._was_before(record)
        }
        return bool(expected.difference(self._ids))

    def _seems_to_leave_out(self, window: Window, page: list[Record]) -> bool:
        """Tell whether a page lacks its first day, though customers were created then.

        It may be the time zone instead: then the next window turns out too full.
        """
        first, _ = window.asked
        if first is None or first.toordinal() not in self._days:
            return False
        earliest = min(record.get("created_at") or "9" for record in page)
        return earliest >= f"{first}T20"

    def _was_before(self, record: Record) -> bool:
        """Tell whether a customer was on the pages that an earlier run has read."""
        if self.edge is None:
            return False
        at = record.get("last_activity_at")
        # The list may be sorted by parts of a second that the API does not write.
        second = slice(len("2026-02-15T09:45:00"))
        return self.nulls_first if at is None else at[second] >= self.edge[0][second]

    def windows(self, dice: random.Random) -> Iterator[Window]:
        """Choose the windows that show a loss, if there is one.

        Where only those created lately are compared, it is the newest that fit on a
        page. Of a whole list it is the newest, then those around the largest gap in the
        running number (or the oldest, where it has none), and then others that are
        drawn, around gaps: four pages of 75 leave a loss of 2 % unseen twice in a
        thousand times.

        Args:
            dice: Chooses.
        """
        known = _Days(self._days)
        if not known:
            yield Window(self._since)
            return
        if self.edge:
            # Of a resumed reading not all were seen: the running number tells how many
            # there are, about. A window that is too small costs less than one too full.
            there = max(self._numbers) - min(self._numbers) + 1
            part = max(1 / 20, min(1, len(self._ids) / there))
            self._most = max(1, int(part * self._most))
        newest = self._newest(known)
        if self._since:
            # The day before it is asked for as well.
            fits = known.count(self._since.toordinal() - 1, known.last) <= self._most
            yield Window(self._since) if fits else newest
            return
        yield newest
        gaps = self._gaps()
        checked: list[Window] = []
        if not gaps:
            oldest = known.around(known.first, known.first, self._most, BOTH_ENDS)
            yield Window(None, oldest.last if oldest else _day(known.first - 1))
        for number in range(CHECKS - 1 if gaps else CHECKS - 2):
            largest = number == 0 and bool(gaps)
            window = self._draw(known, gaps, checked, dice, largest=largest)
            if window is None:
                return
            checked.append(window)
            yield window

    def _newest(self, known: _Days) -> Window:
        """Give a window of those created last."""
        for overlap in (BOTH_ENDS, 0):
            if found := known.around(known.last, known.last, self._most, overlap):
                return Window(found.first, None, overlap)
        # Of a day that is too full, the days after it are left to look at.
        return Window(_day(known.last + 1), None, 0)

    def _draw(
        self,
        known: _Days,
        gaps: list[_Gap] | None,
        checked: list[Window],
        dice: random.Random,
        *,
        largest: bool,
    ) -> Window | None:
        """Choose a window that was not checked yet: around a gap, if there are any."""

        def is_new(gap: _Gap) -> bool:
            return not any(map(gap.is_in, checked))

        left = [*filter(is_new, gaps or ())]
        drawn: list[_Gap] = []
        if largest:
            drawn = [max(left, key=lambda gap: gap.size)]
        elif left:
            drawn = dice.choices(left, [gap.size for gap in left], k=DRAWS)
        if not any(map(known.fits(self._most), drawn)):
            days = dice.choices(self._days, k=DRAWS * DRAWS)
            drawn += filter(is_new, [_Gap(day, day, 0) for day in days if day])
        windows: list[tuple[int, int, Window]] = []
        for at, gap in enumerate(drawn):
            overlap = BOTH_ENDS
            window = None
            while window is None and overlap >= self._left_out:
                window = known.around(
                    gap.before, gap.after, self._most, overlap, self._left_out
                )
                overlap -= 1
            if window:
                missing = sum(one.size for one in left if one.is_in(window))
                windows.append((missing or known.within(window), at, window))
        return max(windows)[2] if windows else None

    def unchecked(self) -> int:
        """Count who may be missing from days with more customers than fit on a page.

        Returns:
            The numbers that are missing there, or where the number does not run, the
            customers of those days. None, where that is less than 2 % of all; but the
            newest day always counts, after which no number tells of a gap.
        """
        known = _Days(self._days)
        if not known or self._since or self.edge:
            return 0
        full = known.full(self._most)
        gaps = self._gaps()
        if gaps is None:
            found = sum(known.count(day, day) for day in full)
        else:
            found = sum(gap.size for gap in gaps if {gap.before, gap.after} & full)
        if known.last in full:
            return found + known.count(known.last, known.last)
        return found if found > UNCHECKED * len(self._days) else 0

    def _gaps(self) -> list[_Gap] | None:
        """Give the gaps in the running number; None, if it does not run."""
        if self.edge:
            return None  # not all were seen
        low, high = min(self._numbers), max(self._numbers)
        if low <= 0 or high - low > SPARSE * len(self._numbers):
            return None
        days = array("i", [0]) * (high - low + 1)
        for number, day in zip(self._numbers, self._days, strict=True):
            days[number - low] = day or -1
        taken = (at for at, day in enumerate(days) if day)
        return [
            _Gap(min(days[at], days[after]), max(days[at], days[after]), after - at - 1)
            for at, after in itertools.pairwise(taken)
            if after - at > 1 and days[at] > 0 and days[after] > 0
        ]


class _Gap(NamedTuple):
    """Numbers that are missing, and when those beside them were created."""

    before: int
    after: int
    size: int

    def is_in(self, window: Window) -> bool:
        return (
            window.first is not None
            and window.last is not None
            and window.first.toordinal() <= self.before
            and self.after <= window.last.toordinal()
        )


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

    def within(self, window: Window) -> int:
        """Give how many were created in a window."""
        first, last = t.cast("tuple[date, date]", (window.first, window.last))
        return self.count(first.toordinal(), last.toordinal())

    def full(self, most: int) -> set[int]:
        """Give the days on which more were created than so many."""
        return {day for day in self._days if self.count(day, day) > most}

    def fits(self, most: int) -> t.Callable[[_Gap], bool]:
        """Give a test of gaps: whether the days around one have at most so many."""
        return lambda gap: self.count(gap.before, gap.after) <= most

    def around(
        self, first: int, last: int, most: int, overlap: int, left_out: int = 0
    ) -> Window | None:
        """Make a window around some days, as long as it has that many customers.

        Args:
            first: The first of the days.
            last: The last of them.
            most: How many customers the window may have.
            overlap: How many days more are asked for.
            left_out: How many days the filters leave out of those asked for.

        Returns:
            The window; None, if there is none.
        """
        more = overlap - left_out

        def size(first: int, last: int) -> int:
            return self.count(first - more // 2, last + (more + 1) // 2)

        if size(first, last) > most:
            return None
        low = bisect.bisect_left(self._days, first)
        high = bisect.bisect_right(self._days, last)
        while True:
            wider = [(day, last) for day in self._days[max(0, low - 1) : low]]
            wider += [(first, day) for day in self._days[high : high + 1]]
            fitting = [ends for ends in wider if size(*ends) <= most]
            if not fitting:
                break
            first, last = min(fitting, key=lambda ends: size(*ends))
            low = bisect.bisect_left(self._days, first)
            high = bisect.bisect_right(self._days, last)
        return Window(_day(first), _day(last), overlap)


def _day(ordinal: int) -> date:
    return date.fromordinal(
        min(max(ordinal, date.min.toordinal()), date.max.toordinal())
    )


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
    return _day(day.toordinal() + days)

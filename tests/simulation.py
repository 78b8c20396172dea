"""A company at work, and a tap, a target and clocks that are not kind to it.

A history is a few runs of the real tap against the sandbox. Between the runs and
between the requests of a run, customers are added, edited, active, moved and deleted;
the tap is killed between two messages; the target confirms some of the states. A
replica takes the messages as a target would. Time is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec

from tap_homele.errors import PageError
from tap_homele.sync.values import Saved
from tests.singer import Output, catalog_of, merge, sync

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.sandbox import Sandbox
    from tests.sandbox.customers import Customer
    from tests.singer import Message

# Not at a quarter of an hour: that could be a day, of a list that holds days.
BEGINNING = datetime(2026, 3, 1, 12, 7, 3, tzinfo=timezone.utc)
ERBIL = timezone(timedelta(hours=3))
TIMES = ("created_at", "updated_at", "last_activity_at")

# A quick run reads the top once: who is saved later than that can jump over it.
COMMIT_LAG = timedelta(minutes=1)

# The longest that a transaction takes, in seconds: less than the tap's overlap.
LONGEST_COMMIT = 240


class LossError(AssertionError):
    """The replica is not what it should be."""


def spellings(moment: datetime) -> list[str]:
    """Give the ways in which the API may write a time."""
    return [
        moment.isoformat(),
        moment.astimezone(ERBIL).isoformat(),
        moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        moment.strftime("%Y-%m-%d %H:%M:%S"),
    ]


@dataclass
class Replica:
    """What a target has: rows by id, each with the version that it came with."""

    rows: dict[int, tuple[Customer, int | None]] = field(default_factory=dict)
    details: dict[int, tuple[Customer, int | None]] = field(default_factory=dict)

    def take(self, messages: list[Message]) -> None:
        for message in messages:
            if message["type"] in {"RECORD", "ACTIVATE_VERSION"}:
                is_list = message["stream"] == "customers"
                table = self.rows if is_list else self.details
            if message["type"] == "RECORD":
                record = message["record"]
                table[record["id"]] = (_stored(record), message.get("version"))
            elif message["type"] == "ACTIVATE_VERSION":
                # A target deletes on arrival what has another version.
                version = message["version"]
                for customer_id in [k for k, row in table.items() if row[1] != version]:
                    del table[customer_id]

    def copy(self) -> Replica:
        return Replica(dict(self.rows), dict(self.details))


def _stored(record: Customer) -> Customer:
    """Store a record as PostgreSQL does: an offset other than UTC is lost."""
    stored = dict(record)
    for name in TIMES:
        if stored[name]:
            stored[name] = datetime.fromisoformat(stored[name]).replace(tzinfo=None)
    return stored


def _expected(row: Customer) -> Customer:
    expected = dict(row)
    for name in TIMES:
        if expected[name]:
            moment = datetime.fromisoformat(expected[name])
            expected[name] = moment.astimezone(timezone.utc).replace(tzinfo=None)
    return expected


@dataclass
class Simulation:
    """One history. ``play`` raises ``LossError`` if it ends in a loss."""

    sandbox: Sandbox
    dice: random.Random
    # How the tap reads the list, and the fault of the sandbox's cursor, if it has one.
    scan_by: str = "cursor"
    fault: str | None = None
    # Whether it asks for details.
    details: bool = False
    # Whether quick runs follow full scans.
    quick: bool = False
    now: datetime = BEGINNING
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        dice = self.dice
        self.full_table = dice.random() < 0.3 and not self.quick
        # For how many hours quick runs follow a full scan.
        self.quick_hours = dice.choice((1, 2, 24)) if self.quick else 0
        self.page_size = dice.randint(1, 4)
        for switch in ("drops_nulls", "drops_seconds", "fails_on_null"):
            setattr(self.sandbox, switch, switch == self.fault)
        if self.fault:
            # Skipped customers are found where a few days fit on a page.
            self.page_size = 6
        self.skew = timedelta(seconds=dice.choice((0, 0, 3600, -3600, 90)))
        self.mixed = dice.random() < 0.5
        # The clock of the web server is ahead of that of the database, in seconds.
        self.ahead = dice.choice((0, 0, 2, 20))
        nulls = dice.choice(("", "", "~"))  # last as MySQL, or first as PostgreSQL
        self.sandbox.key = lambda row: (row["last_activity_at"] or nulls, row["id"])
        self.state: dict[str, Any] | None = None
        self.replica = Replica()
        # Transactions that are not committed yet: when they will be, and what they do.
        self.open: list[tuple[datetime, Callable[[], None]]] = []
        # Customers whose last activity was moved to the past without an update: nobody
        # can see that. Until their next update they may be anything.
        self.unseen: set[int] = set()
        # Customers that moved to the past since the scan began, or earlier, unseen.
        self.moved: set[int] = set()
        # Customers that were there when the scan began.
        self.there: set[int] = set()
        self.next_id = 1
        self.sandbox.clear()
        self.sandbox.clock = self._clock
        self.sandbox.meanwhile = self._meanwhile
        self.sandbox.meanwhile_detail = self._meanwhile
        self.sandbox.render = self._render
        # Customers that were active or added since the last complete run began.
        self.fresh: set[int] = set()
        # The same, of the run before an interrupted scan.
        self.before_scan: set[int] = set()
        # What was written since the run began, by customer.
        self.written: list[tuple[int, dict[str, Any]]] = []
        # Whose rows were written since the scan began.
        self.written_in_scan: set[int] = set()
        self.busy = 0.0
        self.refresh_again = False

    @property
    def local_time(self) -> datetime:
        """The clock of the machine that the tap runs on."""
        return self.now + self.skew

    def _clock(self) -> float:
        """The clock of the server."""
        return self.now.timestamp() + self.ahead

    # What happens.

    def _meanwhile(self) -> None:
        """Let time pass, and let people work, before a request is answered."""
        self._pass(self.dice.choice((0, 1, 2, 30)))
        while self.dice.random() < self.busy:
            self._event()

    def _pass(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        due = [entry for entry in self.open if entry[0] <= self.now]
        self.open = [entry for entry in self.open if entry[0] > self.now]
        for _, commit in sorted(due, key=lambda entry: entry[0]):
            commit()

    def _say(self, what: str) -> None:
        self.log.append(f"{self.now:%d %H:%M:%S} {what}")

    def _event(self) -> None:
        customers = list(self.sandbox.customers)
        if not customers or self.dice.random() < 0.1:
            self._add()
            return
        customer_id = self.dice.choice(customers)
        event = self.dice.choice(
            (
                *(self._edit, self._edit, self._slow_edit, self._edit_and_active),
                *(self._active, self._active, self._slow_active),
                *(self._move, self._move_unseen, self._delete),
            )
        )
        event(customer_id)

    def _add(self) -> None:
        now = self.now.isoformat()
        days = [row["created_at"][:10] for row in self.sandbox.customers.values()]
        if self.fault and days.count(now[:10]) > 1:
            return
        customer_id, self.next_id = self.next_id, self.next_id + 1
        active = self.dice.random() < 0.7
        self.sandbox.add(
            {
                "id": customer_id,
                "sequential_number": customer_id,
                "name": f"Customer {customer_id}",
                "owner": {"id": self.dice.randint(1, 2), "name": "Owner"},
                "created_at": now,
                "updated_at": now,
                "last_activity_at": now if active else None,
            }
        )
        self.fresh.add(customer_id)
        self._say(f"{customer_id} added, {'active' if active else 'no activity'}")

    def _set(self, customer_id: int, **values: Any) -> None:
        if customer_id not in self.sandbox.customers:
            return
        self.sandbox.change(customer_id, **values)
        self.written.append((customer_id, values))
        self.written_in_scan.add(customer_id)
        self._say(f"{customer_id} set {values}")
        if "updated_at" in values:
            self.unseen.discard(customer_id)

    def _later(self, customer_id: int, **values: Any) -> None:
        """Commit a change some time after the time that it carries."""

        def commit() -> None:
            before = self.sandbox.customers.get(customer_id, {}).get("last_activity_at")
            if before and before > values.get("last_activity_at", before):
                # A later activity was faster: this one moves the customer back.
                self.moved.add(customer_id)
            self._set(customer_id, **values)
            if "last_activity_at" in values:
                self.fresh.add(customer_id)
                if self.quick and seconds > COMMIT_LAG.total_seconds():
                    # It can jump over a reading of the head, and comes with the next
                    # run then.
                    self.moved.add(customer_id)

        seconds = self.dice.randint(1, LONGEST_COMMIT)
        self.open.append((self.now + timedelta(seconds=seconds), commit))

    def _edit(self, customer_id: int) -> None:
        name = f"Customer {customer_id} at {self.now:%d %H:%M:%S}"
        owner = {"id": self.dice.randint(1, 2), "name": "Owner"}
        now = self.now.isoformat()
        self._set(customer_id, name=name, owner=owner, updated_at=now)

    def _slow_edit(self, customer_id: int) -> None:
        name = f"Customer {customer_id} since {self.now:%d %H:%M:%S}"
        self._later(customer_id, name=name, updated_at=self.now.isoformat())

    def _active(self, customer_id: int) -> None:
        self._set(customer_id, last_activity_at=self.now.isoformat())
        self.fresh.add(customer_id)

    def _slow_active(self, customer_id: int) -> None:
        self._later(customer_id, last_activity_at=self.now.isoformat())

    def _edit_and_active(self, customer_id: int) -> None:
        self._edit(customer_id)
        self._active(customer_id)

    def _past(self) -> str | None:
        """Give a time in the past, or none: an activity that is moved or removed."""
        if self.dice.random() < 0.3:
            return None
        seconds = self.dice.choice((60, 600, 6000, 60000))
        return (self.now - timedelta(seconds=seconds)).isoformat()

    def _move(self, customer_id: int) -> None:
        self.moved.add(customer_id)
        self.fresh.discard(customer_id)  # an edit without an activity
        past, now = self._past(), self.now.isoformat()
        self._set(customer_id, last_activity_at=past, updated_at=now)

    def _move_unseen(self, customer_id: int) -> None:
        self.moved.add(customer_id)
        self.unseen.add(customer_id)
        self.fresh.discard(customer_id)
        self._set(customer_id, last_activity_at=self._past())

    def _delete(self, customer_id: int) -> None:
        self.sandbox.delete(customer_id)
        self._say(f"{customer_id} deleted")

    def _render(self, row: Customer) -> Customer:
        """Write the times of a row in any of the API's spellings."""
        if not self.mixed:
            return row
        written = dict(row)
        for name in TIMES:
            if row[name]:
                ways = spellings(datetime.fromisoformat(row[name]))
                written[name] = ways[(row["id"] + len(name)) % len(ways)]
        return written

    # Runs.

    def play(self) -> None:
        """Go through the history, and then through quiet days."""
        for _ in range(self.dice.randint(0, 25 if self.fault else 10)):
            self._add()
            # Quick runs read what was created lately: most customers are older.
            longer = 40 if self.fault or self.quick else 1
            self._pass(self.dice.choice((0, 60, 4000)) * longer)
        for _ in range(self.dice.randint(1, 8 if self.quick else 4)):
            if self.quick and self.dice.random() < 0.2:
                # Somebody sets the clock of the machine.
                self.skew = timedelta(seconds=self.dice.choice((0, 3600, -3600, 90)))
            self._pass(self.dice.choice((1, 60, 400, 5000)))
            self.busy = self.dice.choice((0.0, 0.3, 0.6))
            for _ in range(self.dice.randint(0, 4)):
                self._event()
            # Each of them takes a full scan.
            seldom = 0.05 if self.quick else 0.15
            self.run(
                kill_after=self.dice.choice((10**9, self.dice.randint(0, 40))),
                confirms_all=self.dice.random() < 0.6,
                filtered=not self.full_table and self.dice.random() < seldom,
                refresh=not self.full_table and self.dice.random() < seldom,
            )
        self.busy, self.quick_hours = 0.0, 0
        self._pass(LONGEST_COMMIT)
        self._pass(1000)
        if self._interrupted():
            self.run()
            self._pass(1000)
        self.run()
        if self.full_table:
            # Where more than half were deleted, deletes wait for a second scan.
            self._pass(1000)
            self.run()
        self._compare()

    def _interrupted(self) -> bool:
        return bool(self._saved.open_scan.list_id)

    @property
    def _saved(self) -> Saved:
        """What stands in the state."""
        stream = (self.state or {}).get("bookmarks", {}).get("customers", {})
        return msgspec.convert(stream.get("saved", {}), Saved)

    def run(
        self,
        *,
        kill_after: int = 10**9,
        confirms_all: bool = True,
        filtered: bool = False,
        refresh: bool = False,
    ) -> None:
        """Run the tap once, and let the target take what it gives.

        ``refresh`` is Meltano's full refresh: into a new database, say. One that ended
        before its first state has left no trace, and the user asks for it again.
        """
        refresh = refresh or self.refresh_again
        if refresh:
            self.replica.rows.clear()
            self.replica.details.clear()
        resumed = self._interrupted() and not refresh
        moved_before = self.moved if self.quick else set()
        run_before = self._saved.last_run
        if not resumed:
            self.written_in_scan = set()
            self.there = set(self.sandbox.customers)
            # Nobody can see these before their next update, and it may come too late.
            self.moved = set(self.unseen)
        before = self.replica.copy()
        fresh, self.fresh, self.written = self.fresh, set(), []
        began_with = {key: dict(row) for key, row in self.sandbox.customers.items()}
        self._say(f"run, kill after {kill_after}, {filtered=}, {refresh=}")
        output, failed = self._sync(
            state=None if refresh else self.state,
            kill_after=kill_after,
            filter_owner_ids=[1] if filtered else [],
        )
        killed = failed or len(output.messages) == kill_after
        confirmed = self._confirmed(
            output, everything=confirms_all or not killed, refresh=refresh
        )
        self._say(f"ended, killed {killed}, {confirmed} messages stored")
        self.replica.take(output.messages[:confirmed])
        self._check_rows_in_place(before, output.messages[:confirmed])
        saved = self._saved
        is_new = saved.last_run.started not in {"", run_before.started}
        if not is_new or saved.last_run.started != saved.last_full_scan.started:
            # No full scan: who moved to the past before still waits for one.
            self.moved |= moved_before
        if filtered or self._interrupted() or not is_new:
            # The target has not confirmed the end of a run.
            if self._interrupted() and not resumed:
                self.before_scan |= fresh
            else:
                self.fresh |= fresh
        elif resumed:
            # What changed since the scan began is left to the next run.
            self.fresh |= fresh
            self.before_scan = set()
        elif self.quick:
            self._check_fresh(fresh | self.before_scan, began_with)
            self.before_scan = set()
        if not killed and not filtered:
            self._check_presence()

    def _sync(self, **options: Any) -> tuple[Output, bool]:
        """Run the tap; give its messages, and whether it has failed."""
        output = Output([])
        try:
            sync(
                self.sandbox,
                catalog=catalog_of(
                    "FULL_TABLE" if self.full_table else "INCREMENTAL",
                    customer_details=self.details,
                ),
                output=output,
                customer_details=self.details,
                page_size=self.page_size,
                emit_activate_version_messages=self.full_table,
                scan_by=self.scan_by,
                full_scan_every_hours=self.quick_hours,
                **options,
            )
        except PageError as error:
            # Five in a row were deleted between the list and their details.
            if "the details of none" not in str(error):
                raise
            return output, True
        return output, False

    def _confirmed(self, output: Output, *, everything: bool, refresh: bool) -> int:
        """Take the states that the target confirms; give how much it has stored."""
        at = [i for i, m in enumerate(output.messages) if m["type"] == "STATE"]
        if not everything:
            at = at[: self.dice.randint(0, len(at))]
        self.refresh_again = refresh and not at
        if refresh:
            # Meltano merges the states of a full refresh into the one before.
            for index in at:
                self.state = merge(self.state or {}, output.messages[index]["value"])
        elif at:
            self.state = output.messages[at[-1]]["value"]
        if everything:
            return len(output.messages)
        return at[-1] + 1 if at else 0

    # What must hold.

    def _check_rows_in_place(
        self, before: Replica, stored: list[dict[str, Any]]
    ) -> None:
        """No row goes that Homele still has; none at all before a scan is closed."""
        gone = set(before.rows) - set(self.replica.rows)
        if any(message["type"] == "ACTIVATE_VERSION" for message in stored):
            gone &= self.there & set(self.sandbox.customers)
            gone -= self.moved | self.unseen
        if gone and not self._may_skip:
            self._fail(f"rows {gone} are gone from the replica")

    @property
    def _may_skip(self) -> bool:
        """Whether the cursor skips customers, and the round has not shown it yet.

        Customers that lose their activity wait for the next round;
        ``test_crosscheck`` has the cases.
        """
        trust = self._saved.cursor_trust
        return bool(self.fault) and self.scan_by == "auto" and not trust.failed_scans

    def _check_presence(self) -> None:
        """After a run that ended well, all its first customers have arrived."""
        if self._may_skip:
            return
        there = self.there & set(self.sandbox.customers)
        missing = there - set(self.replica.rows) - self.moved - self.unseen
        if not self.full_table:
            # Who moved while the list was read may come with the next run.
            missing -= self.written_in_scan
        if missing:
            self._fail(f"customers {missing} are not in the replica after a good run")

    def _check_fresh(self, fresh: set[int], began_with: dict[int, Customer]) -> None:
        """Whoever was active or added before a run has arrived, as it was then."""
        if self._may_skip:
            return
        there = began_with.keys() & self.sandbox.customers.keys()
        # Who moved while the list was read may come with the next run.
        seen = (fresh & there) - self.written_in_scan
        for customer_id in seen - self.moved - self.unseen:
            stored, _ = self.replica.rows.get(customer_id, (None, None))
            if stored is None:
                self._fail(f"customer {customer_id} has not arrived")
                return
            # Or as it became meanwhile.
            rows = [began_with[customer_id]]
            for changed_id, values in self.written:
                if changed_id == customer_id:
                    rows.append(rows[-1] | values)
            for name in ("name", "last_activity_at"):
                if stored[name] not in [_expected(row)[name] for row in rows]:
                    self._fail(f"customer {customer_id} is stale: {stored}")

    def _compare(self) -> None:
        """In the end the replica equals the source."""
        if self._may_skip:
            return
        source = self.sandbox.customers
        for customer_id, row in source.items():
            if customer_id in self.unseen:
                continue
            stored = self.replica.rows.get(customer_id)
            if stored is None:
                self._fail(f"customer {customer_id} never arrived")
            elif {name: stored[0][name] for name in row} != _expected(row):
                self._fail(f"customer {customer_id} is {stored[0]}, not {row}")
            if self.details:
                self._compare_details(customer_id, row)
        self._compare_deleted()

    def _compare_deleted(self) -> None:
        source = self.sandbox.customers
        if self.scan_by == "created_date" and not self.fault:
            return  # a day that does not fit on a page is never certain to be whole
        if self.full_table and self.details:
            stay = set(self.replica.details) - set(source)
            if stay:
                self._fail(f"deleted: the details of {stay} stay")
        if self.full_table and set(self.replica.rows) != set(source):
            self._fail(f"deleted: {set(self.replica.rows) - set(source)} stay")

    def _compare_details(self, customer_id: int, row: Customer) -> None:
        found, _ = self.replica.details.get(customer_id, (None, None))
        if found is None:
            self._fail(f"the details of customer {customer_id} never arrived")
        elif {name: found[name] for name in row} != _expected(row):
            self._fail(f"the details of {customer_id} are {found}, not {row}")

    def _fail(self, what: str) -> None:
        raise LossError("\n".join([what, *self.log]))

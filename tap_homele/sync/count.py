"""Hold the list against the last one by one number: how many customers it has.

A list can be short for hours, and a token can be allowed to see more. Customers that
become visible with old dates and low ids look like nothing new, and a list that lost
half of its customers looks like half of them deleted.
"""

import logging
from array import array
from collections.abc import Iterable, Iterator

from tap_homele.sync.plan import FULL, Plan
from tap_homele.sync.values import Doubt, Learned, Note

# So many more customers than before, up to the highest id of before, are not by chance.
FEW = 20

# Ids are counted in so many parts, so that it takes little memory.
PARTS = 16


def counted(
    plan: Plan, learned: Learned, *, in_doubt: bool
) -> Iterator[Doubt | Note | Learned]:
    """Compare the number of customers with that of the last full scan.

    The number is replaced each time, so what stays so is believed by the next scan.

    Args:
        plan: What the run did.
        learned: What it has learned.
        in_doubt: A customer may be missing: then a smaller number says nothing.

    Yields:
        What the difference means, and what was learned.
    """
    last = plan.saved.total
    if plan.kind != FULL or last.customers is None:
        yield learned
        return
    known = count_once(id_ for id_ in learned.ids if id_ <= last.max_id)
    more = known - last.customers
    sent_all = plan.since <= plan.settings.start_date
    resends_next = more > FEW and not plan.settings.has_filters and not sent_all
    if resends_next:
        yield Note(
            f"{more:,} customers can be seen that could not be when the last full scan "
            "ran, although they are not new: the token may see more now, or the list "
            "was short then. The next run sends all customers.",
            logging.WARNING,
        )
    if known * 2 < last.customers and not in_doubt:
        yield Doubt(
            f"Of {last.customers:,} customers that the last full scan has seen, "
            f"{known:,} are left: deletes wait until the next full scan agrees.",
            logging.WARNING if plan.settings.announces_deletes else logging.INFO,
        )
    counts = more >= 0 or not in_doubt
    yield learned._replace(counts=counts, resends_next=resends_next)


def count_once(ids: Iterable[int]) -> int:
    """Count ids, each once: who moves down while the list is read comes twice."""
    parts = [array("q") for _ in range(PARTS)]
    for id_ in ids:
        parts[id_ % PARTS].append(id_)
    return sum(len(set(part)) for part in parts)

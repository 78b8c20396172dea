"""Hold the list against the last one by one number: how many customers it has.

A list can be short for hours, and a token can be allowed to see more. Customers that
become visible with old dates and low ids look like nothing new, and a list that lost
half of its customers looks like half of them deleted.
"""

import logging
from collections.abc import Iterator

from tap_homele.sync.plan import FULL, Plan
from tap_homele.sync.values import Doubt, Learned, Note, Total

# So many more customers than before, up to the highest id of before, are not by chance.
FEW = 20


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
        What the difference means, and what was learned, with the number.
    """
    last, ids = plan.saved.total, learned.ids
    if plan.kind != FULL:
        yield learned._replace(total=last)
        return
    total = Total(len(ids), max(ids, default=0))
    resends_next = False
    if last.customers is not None:
        known = sum(id_ <= last.max_id for id_ in ids)
        if known > last.customers + FEW:
            # Customers that moved down while the list was read came twice.
            known = len({id_ for id_ in ids if id_ <= last.max_id})
        if known > last.customers + FEW and not plan.settings.has_filters:
            resends_next = plan.since > plan.settings.start_date
            yield Note(
                f"{known - last.customers:,} customers can be seen that could not be "
                "when the last full scan ran, although they are not new: the token may "
                "see more now, or the list was short then. "
                + (
                    "The next run sends all customers."
                    if resends_next
                    else "All were sent."
                ),
                logging.WARNING,
            )
        if known * 2 < last.customers and not in_doubt:
            yield Doubt(
                f"Of {last.customers:,} customers that the last full scan has seen, "
                f"{known:,} are left: deletes wait until the next full scan agrees.",
                logging.WARNING if plan.settings.announces_deletes else logging.INFO,
            )
        if in_doubt and known < last.customers:
            total = last
    yield learned._replace(total=total, resends_next=resends_next)

"""Customers that nobody is, the same ones for the same seed."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from typing import Any

Customer = dict[str, Any]

FIRST_NAMES = (
    *("Ahmed", "Sara", "Mariam", "Omar", "Layla", "Yusuf", "Zaynab", "Ibrahim"),
    *("أحمد", "سارة", "مريم", "عمر", "ليلى", "يوسف", "زينب", "إبراهيم"),
    *("ئازاد", "ڕۆژین", "شیلان", "هێمن", "ژیان", "کاروان", "دلۆڤان", "ڤیان"),
)
LAST_NAMES = (
    *("Ali", "Hassan", "Al-Jubouri", "Barzinji", "O'Neill", "Aziz"),
    *("علي", "حسن", "الجبوري", "العبيدي"),
    *("بەرزنجی", "ئاکرەیی", "دهۆکی", "هەولێری"),
)
STREETS = (
    "60m Street",
    "100m Street",
    "Gulan Street",
    "شارع المتنبي",
    "شەقامی سێتەقان",
)

LEAD_STATUSES = ("New", "Contacted", "Visited", "Negotiation", "Won", "Lost")
LEAD_SOURCES = ("Website", "Facebook", "Walk-in", "Referral", "مكالمة هاتفية")
OWNERS = ("Rawa", "Hiwa", "نور", "Dana", "شاخەوان")
OCCUPATIONS = ("Engineer", "Teacher", "طبيب", "فرۆشیار")
PRIORITIES = ("Low", "Medium", "High")
COUNTRIES = ("Iraq", "Türkiye", "الأردن")
CITIES = ("Erbil", "سلێمانی", "دهۆک", "بغداد", "Kirkuk", "Mosul")

FIRST_DAY = datetime(2024, 1, 1, 6, tzinfo=timezone.utc)
LAST_DAY = datetime(2026, 2, 20, 18, tzinfo=timezone.utc)


def spell(moment: datetime) -> str:
    """Write a time as the vendor's document does."""
    return moment.astimezone(timezone.utc).isoformat(timespec="seconds")


def make_customers(count: int, *, seed: int = 7) -> list[Customer]:
    """Make customers, oldest first.

    Every field that may be null is null for some; some share the second of their last
    update or last activity; some have no activity at all.
    """
    dice = random.Random(seed)
    step = (LAST_DAY - FIRST_DAY) / max(1, count)
    return [
        _customer(
            dice,
            # Ids have gaps, as after deletions.
            customer_id=3 * number + dice.randint(0, 2),
            number=1000 + number,
            created_at=(FIRST_DAY + number * step).replace(microsecond=0),
        )
        for number in range(1, count + 1)
    ]


def _customer(
    dice: random.Random,
    *,
    customer_id: int,
    number: int,
    created_at: datetime,
) -> Customer:
    def sometimes(value: object, chance: float = 0.8) -> Any:
        return value if dice.random() < chance else None

    def one_of(names: tuple[str, ...], chance: float = 0.8) -> dict[str, Any] | None:
        index = dice.randrange(len(names))
        return sometimes({"id": index + 1, "name": names[index]}, chance)

    def later(moment: datetime) -> datetime:
        # On the hour, so that many share one.
        hours = dice.randint(0, max(0, int((LAST_DAY - moment) / timedelta(hours=1))))
        then = (moment + timedelta(hours=hours)).replace(minute=0, second=0)
        return max(moment, then)

    first, last = dice.choice(FIRST_NAMES), sometimes(dice.choice(LAST_NAMES))
    updated_at = later(created_at)
    return {
        "id": customer_id,
        "sequential_number": number,
        "name": f"{first} {last}" if last else first,
        "first_name": first,
        "last_name": last,
        "phone1": f"+964750{dice.randint(0, 9_999_999):07}",
        "phone2": sometimes(f"+964770{dice.randint(0, 9_999_999):07}", 0.3),
        "phone3": sometimes(f"+964780{dice.randint(0, 9_999_999):07}", 0.1),
        "email1": sometimes(f"customer{number}@example.com", 0.6),
        "address": sometimes(f"{dice.choice(STREETS)} {dice.randint(1, 200)}", 0.7),
        "budget": sometimes(f"{dice.randint(20, 900) * 1000}.{dice.randint(0, 99):02}"),
        "budget_currency": sometimes(dice.choice(("USD", "IQD", "EUR"))),
        "expected_sale_date": sometimes(
            (updated_at + timedelta(days=dice.randint(1, 300))).date().isoformat(),
            0.5,
        ),
        "lead_status": one_of(LEAD_STATUSES, 0.95),
        "lead_source": one_of(LEAD_SOURCES),
        "owner": one_of(OWNERS),
        "priority": one_of(PRIORITIES),
        "country": one_of(COUNTRIES),
        "city": one_of(CITIES),
        "created_at": spell(created_at),
        "updated_at": spell(updated_at),
        "last_activity_at": sometimes(spell(later(created_at)), 0.95),
    }


def details_of(customer: Customer) -> dict[str, Any]:
    """Give what only the details of a customer say.

    The vendor names ``occupation``; how the others are called is not known.
    """
    dice = random.Random(customer["id"])
    changes = [(LEAD_STATUSES[0], customer["created_at"])]
    if status := customer.get("lead_status"):
        changes.append((status["name"], customer["updated_at"]))
    return {
        "occupation": dice.choice(
            (*({"id": at + 1, "name": n} for at, n in enumerate(OCCUPATIONS)), None)
        ),
        "real_estate_types": [{"id": 1, "name": dice.choice(("Villa", "شقة"))}],
        "lead_status_history": [
            {"lead_status": {"id": at, "name": name}, "changed_at": changed_at}
            for at, (name, changed_at) in enumerate(changes)
        ],
    }

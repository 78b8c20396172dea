"""One row of the API becomes one record that fits the schema, and nothing is dropped.

JSON is parsed without losing a digit or a character.

What no column can hold, and what the schema does not know, goes into the open object
``additional_properties`` under its own name.
"""

import contextlib
import json
import logging
import re
import typing as t
from collections.abc import Callable, Iterator
from datetime import date, datetime, timezone
from decimal import Decimal, InvalidOperation

import msgspec

Record = dict[str, t.Any]

# JSON numbers have no bounds, and databases do: what is beyond 10^1000, or is written
# with more characters than these, becomes text.
MAX_EXPONENT = 1000
MAX_LENGTH = 10_000

# The longest integer that Python reads, in digits.
MAX_DIGITS = 4300

_Misfit: t.TypeAlias = tuple[str, t.Any, bool]

# Makes a value that is not null fit a column; None, if it does not.
Fit = Callable[[t.Any], t.Any]

# The column for whatever has no column.
ADDITIONAL = "additional_properties"

# What no target can be expected to hold in an integer column.
BIGINT = 2**63

# JSON can spell out what UTF-8 (half a pair) or PostgreSQL (NUL) cannot hold.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

_DECIMAL = r"\A-?[0-9]+(\.[0-9]+)?\Z"
_MIDNIGHT = re.compile(r"[T ]00:00:00(\.0+)?(Z|[+-]\d\d:?\d\d)?")
_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)


class MisfitError(ValueError):
    """A row that cannot be stored, and why."""


def _number(text: str) -> Decimal | str:
    with contextlib.suppress(InvalidOperation):
        number = Decimal(text)
        if len(text) <= MAX_LENGTH and abs(number.adjusted()) <= MAX_EXPONENT:
            return number
    return text


_decoder = msgspec.json.Decoder(float_hook=_number)


def decode(body: bytes) -> t.Any:
    """Parse the body of an answer.

    Returns:
        Its JSON, in the characters of ``storable``. Numbers with a fraction or an
        exponent are ``Decimal``; a number that is too long is text.

    Raises:
        ValueError: If it is not JSON.
        RecursionError: If it is nested too deeply to be read.
    """
    try:
        value = _decoder.decode(body)
    except msgspec.DecodeError:
        # msgspec does not take all that JSON can spell: half a pair of surrogates,
        # integers of thousands of digits.
        value = json.loads(
            body,
            parse_float=_number,
            parse_int=lambda text: int(text) if len(text) <= MAX_DIGITS else text,
            parse_constant=int,  # refuses NaN and Infinity, which are no JSON
        )
        return storable(value)
    return storable(value) if b"\\u0000" in body else value


def utc(value: t.Any) -> str | None:
    """Bring a time to UTC in one spelling.

    The API's times can have another offset, a ``Z``, microseconds or no zone at all
    (Laravel; then UTC). Times in this one spelling compare as strings, as the SDK does:
    ``+`` sorts before the ``.`` of a fraction.

    Args:
        value: A time in ISO 8601, or anything else.

    Returns:
        Like ``2026-02-15T09:45:00+00:00``, with a fraction where there is one. None
        for what is not a time.
    """
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.replace(tzinfo=moment.tzinfo or timezone.utc)
        return moment.astimezone(timezone.utc).isoformat()
    except (TypeError, ValueError, OverflowError):
        return None


def utc_now() -> datetime:
    """Return the clock of this machine, UTC."""
    return datetime.now(timezone.utc)


def storable(value: t.Any) -> t.Any:
    r"""Spell out the characters that a target could not store.

    Args:
        value: Any JSON.

    Returns:
        The same, with NUL and lone surrogates written as JSON does, in six characters:
        ``\u0000``, ``\ud800``.
    """
    if isinstance(value, str):
        return _UNSTORABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", value)
    if isinstance(value, list):
        return [storable(item) for item in value]
    if isinstance(value, dict):
        spelled: Record = {}
        for key, item in value.items():
            spelled[_free(storable(key), spelled)] = storable(item)
        return spelled
    return value


class Fitter:
    """Makes records of rows, for one stream and one run.

    Attributes:
        misfits: The fields that have no column (True), and those that did not fit
            theirs (False), each with the id of the first customer that has it.
        missing: The columns that no row has had so far.
    """

    def __init__(self, schema: Record, *, flattened: bool) -> None:
        """Take the columns.

        Args:
            schema: The JSON schema of the stream.
            flattened: Whether the SDK will make a column of each part of an object.
        """
        columns = {n: c for n, c in schema["properties"].items() if n != ADDITIONAL}
        self._columns = {name: _fit_for(of) for name, of in columns.items()}
        self._empty = dict.fromkeys([*columns, ADDITIONAL])
        self._flattened = flattened
        self._usual = _struct(columns, schema["required"])
        self._times = [n for n, c in columns.items() if c.get("format") == "date-time"]
        self.missing = set(columns)
        self.misfits: dict[bool, dict[str, t.Any]] = {False: {}, True: {}}

    def fit(self, row: t.Any) -> Record:
        """Make a record of a row.

        Args:
            row: A row as the API sent it.

        Returns:
            A record with every column, null where the row has nothing that fits. If it
            is to be flattened, an object is not null, but all of its parts are.

        Raises:
            MisfitError: If the row is not an object, or has no integer id: it cannot
                be told from others.
        """
        record = self._fit_usual(row) or self._fit_any(row)
        for name, column in self._columns.items() if self._flattened else ():
            # Of a null the SDK would make a column that the flattened schema lacks.
            if record[name] is None and isinstance(column, dict):
                record[name] = dict.fromkeys(column)
        return record

    def _fit_usual(self, row: t.Any) -> Record | None:
        """Make a record of a row that is as it is documented, and complete.

        It is checked as a whole, outside Python, which takes a tenth of the time.

        Returns:
            The same as ``_fit_any``; None, if there is anything else about the row.
        """
        try:
            msgspec.convert(row, self._usual)
        except msgspec.ValidationError:
            return None
        record: Record = {**row, ADDITIONAL: None}
        self.missing.clear()
        for name in self._times:
            value = record[name]
            # Quicker than to parse it: is it spelled as ``utc`` would?
            if value and (value[10] != "T" or value[19:] != "+00:00"):
                record[name] = utc(value)
                if record[name] is None:
                    return None
        return record

    def _fit_any(self, row: t.Any) -> Record:
        if not isinstance(row, dict):
            raise MisfitError("is not an object")
        record = self._empty.copy()
        self.missing -= row.keys()
        extra: Record = {}
        for name, value, is_new in _place(row, self._columns, record):
            extra[_free(name, extra)] = value
            self.misfits[is_new].setdefault(name, row.get("id"))
        if record["id"] is None:
            raise MisfitError("has no integer 'id'")
        record[ADDITIONAL] = extra or None
        return record

    def misfits_said(self, selected: set[str]) -> Iterator[tuple[int, str]]:
        """Say which fields have no column, did not fit theirs, or did not come.

        Args:
            selected: The columns that are sent.

        Yields:
            The level of the log, and a sentence.
        """
        kinds = {
            False: (logging.WARNING, "What does not fit its column"),
            True: (logging.INFO, "What has no column"),
        }
        for is_new, (level, what) in kinds.items():
            fields = self.misfits[is_new].items()
            firsts = [f"{printable(name)} (customer {id_})" for name, id_ in fields]
            if firsts:
                yield level, f"{what} is in {ADDITIONAL}: {', '.join(firsts)}."
        gone = ", ".join(sorted(self.missing & selected))
        if gone and "id" not in self.missing:  # else no row has come
            keep = "To keep what is in the warehouse, do not select it."
            said = f"In this run no customer had {gone}, so it was sent as null. {keep}"
            yield logging.WARNING, said


def printable(text: str) -> str:
    """Make a text of the API fit a line of the log: 200 characters, no control ones."""
    return "".join(char if char.isprintable() else " " for char in text[:200])


def _place(row: Record, columns: Record, record: Record) -> Iterator[_Misfit]:
    """Put what fits its column into a record.

    Yields:
        What does not fit, or has no column: its name, its value, whether it is new.
    """
    for name, value in row.items():
        column = columns.get(name)
        if isinstance(column, dict) and isinstance(value, dict):
            record[name] = dict.fromkeys(column)
            for part, item, is_new in _place(value, column, record[name]):
                yield f"{name}.{part}", item, is_new
        elif column is None or value is not None:
            if callable(column):
                record[name] = column(value)
            if record.get(name) is None:
                yield name, value, column is None


def _free(name: str, taken: Record) -> str:
    """Return a name that is not taken: ``owner.email`` can be a field, too."""
    while name in taken:
        name += "*"
    return name


def _text(value: t.Any) -> str | None:
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) else None


def _integer(value: t.Any) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)  # PHP likes to write "42" for 42
    return value if type(value) is int and -BIGINT <= value < BIGINT else None


def _decimal(value: t.Any) -> str | None:
    text = _text(value)
    return text if text and re.match(_DECIMAL, text) else None


def is_day(value: t.Any) -> bool:
    """Tell whether something is a day like ``2026-01-31``."""
    with contextlib.suppress(TypeError, ValueError):
        return bool(date.fromisoformat(value).isoformat() == value)
    return False


def _day(value: t.Any) -> str | None:
    """Return a day, also of a midnight, as which Laravel's ``date`` cast writes it."""
    if isinstance(value, str) and _MIDNIGHT.fullmatch(value[len("2026-01-31") :]):
        value = value[: len("2026-01-31")]
    return value if is_day(value) else None


# The kinds of columns, by format or type: what msgspec takes for a value that is as it
# is documented, and what makes any other fit.
_KINDS: dict[str, tuple[t.Any, Fit]] = {
    "string": (str, _text),
    "integer": (t.Annotated[int, msgspec.Meta(ge=-BIGINT, le=BIGINT - 1)], _integer),
    "singer.decimal": (t.Annotated[str, msgspec.Meta(pattern=_DECIMAL)], _decimal),
    "date": (date, _day),
    "date-time": (datetime, utc),
}


def _kind(column: Record) -> tuple[t.Any, Fit]:
    types = column["type"]
    (kind,) = {types} if isinstance(types, str) else {*types} - {"null"}
    return _KINDS[column.get("format", kind)]


def _fit_for(column: Record) -> Fit | Record:
    """Return what makes a value fit a column; of an object, that for each part."""
    if "properties" in column:
        return {part: _fit_for(of) for part, of in column["properties"].items()}
    return _kind(column)[1]


def _struct(columns: Record, required: t.Container[str] = ()) -> type[msgspec.Struct]:
    """Return the type of a row, or of a related object, as it is documented."""
    fields = []
    for name, column in columns.items():
        is_object = "properties" in column
        kind = _struct(column["properties"]) if is_object else _kind(column)[0]
        fields.append((name, kind if name in required else kind | None))
    return msgspec.defstruct("Row", fields, forbid_unknown_fields=True, gc=False)

"""One row of the API becomes one record that fits the schema, and nothing is dropped.

What no column can hold, and what the schema does not know, goes into the open object
``additional_properties`` under its own name.
"""

from __future__ import annotations

import re
import typing as t
from datetime import date, datetime, timezone
from decimal import Decimal

import msgspec

Record = dict[str, t.Any]

_encoder = msgspec.json.Encoder(decimal_format="number")

# A value that is nested more deeply than this is kept as its JSON text.
DEEPEST = 100

# Is called with the name of a field and the id of a row.
Notice = t.Callable[[str, int], None]

# Makes a value fit a column, or raises MisfitError.
Fit = t.Callable[[t.Any], t.Any]

# The column for whatever has no column.
ADDITIONAL = "additional_properties"

# What no target can be expected to hold in an integer column.
BIGINT = 2**63

# JSON can spell out what UTF-8 (half a pair) or PostgreSQL (NUL) cannot hold.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

# What a time has of digits that neither Python nor PostgreSQL keeps.
_BEYOND_MICROSECONDS = re.compile(r"[.,]\d{6}(\d+)", re.ASCII)

# What msgspec takes for a value that is as it is documented, by its format or its type.
_USUAL: dict[str, t.Any] = {
    "string": str,
    "integer": t.Annotated[int, msgspec.Meta(ge=-BIGINT, le=BIGINT - 1)],
    "singer.decimal": t.Annotated[
        str, msgspec.Meta(pattern=r"\A-?[0-9]+(\.[0-9]+)?\Z")
    ],
    "date": date,
    "date-time": datetime,
}

_DECIMAL = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)


class MisfitError(ValueError):
    """A value, or a row, that does not fit.

    Attributes:
        fitting: The part of it that its column can hold.
        rest: The parts that it cannot, by their names; None, if it is the whole value.
    """

    def __init__(
        self, reason: str = "", fitting: t.Any = None, rest: Record | None = None
    ) -> None:
        """Say what does not fit."""
        super().__init__(reason)
        self.fitting = fitting
        self.rest = rest


def utc(value: object) -> str | None:
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
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc).isoformat()
    except (ValueError, OverflowError):
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
    """Makes records of rows, for one stream and one run."""

    def __init__(
        self, schema: Record, notice: Notice, *, flattened: bool = False
    ) -> None:
        """Take the columns.

        Args:
            schema: The JSON schema of the stream.
            notice: Is told once of each field that does not fit, with the id of the
                first row.
            flattened: Whether the SDK will make a column of each part of an object.
        """
        columns = dict(schema["properties"])
        columns.pop(ADDITIONAL)
        self._columns = {
            name: _fit_for(name, column) for name, column in columns.items()
        }
        self._empty = dict.fromkeys([*columns, ADDITIONAL])
        # Of a null the SDK would make a column that the flattened schema does not have.
        self._spelled_out = {
            name: [*column["properties"]]
            for name, column in columns.items()
            if flattened and "properties" in column
        }
        self._usual = _struct("Row", columns, required=set(schema["required"]))
        self._times = [n for n, c in columns.items() if c.get("format") == "date-time"]
        self._notice = notice
        self._noticed: set[str] = set()

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
        for name, parts in self._spelled_out.items():
            if record[name] is None:
                record[name] = dict.fromkeys(parts)
        return record

    def _fit_usual(self, row: t.Any) -> Record | None:
        """Make a record of a row that is as it is documented, and complete.

        It is checked as a whole, outside Python, which takes a tenth of the time.

        Returns:
            The same as ``_fit_any``; None, if there is anything else about the row.
        """
        try:
            msgspec.convert(row, self._usual)
            record: Record = {**row, ADDITIONAL: None}
            for name in self._times:
                if (value := record[name]) and not _is_in_utc(value):
                    record[name] = _time(value)
        except (msgspec.ValidationError, MisfitError):
            return None
        return record

    def _fit_any(self, row: t.Any) -> Record:
        if not isinstance(row, dict):
            raise MisfitError("is not an object")
        row_id, fits = _part(_integer, row.get("id"))  # PHP likes to write "42" for 42
        if row_id is None or not fits:
            raise MisfitError("has no integer 'id'")
        record = self._empty.copy()
        extra: Record = {}
        for name, value in row.items():
            fit = self._columns.get(name)
            if fit is None:
                extra[name] = value
                continue
            try:
                record[name] = fit(value)
            except MisfitError as misfit:
                record[name] = misfit.fitting
                rest = {name: value} if misfit.rest is None else misfit.rest
                for key, item in rest.items():
                    extra[_free(key, extra, row) if misfit.rest else key] = item
        if extra:
            record[ADDITIONAL] = {k: _shallow(value) for k, value in extra.items()}
        for name in extra.keys() - self._noticed:
            self._noticed.add(name)
            self._notice(name, row_id)
        return record


def _shallow(value: t.Any) -> t.Any:
    """Return a value that the SDK can write: it recurses, a level at a time."""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            item
            for inner in level
            if isinstance(inner, dict | list)
            for item in (inner.values() if isinstance(inner, dict) else inner)
        ]
        if not level:
            return value
    try:
        return _encoder.encode(value).decode()
    except RecursionError:
        raise MisfitError("is nested too deeply") from None


def _free(name: str, *taken: Record) -> str:
    """Return a name that no other field has: ``owner.email`` can be a field, too."""
    while any(name in names for names in taken):
        name += "*"
    return name


def _fit_for(name: str, column: Record) -> Fit:
    """Return the function that makes a value fit a column."""
    if "properties" in column:
        parts = {part: _fit_for(part, of) for part, of in column["properties"].items()}
        return lambda value: _related(name, value, parts)
    if "integer" in column["type"]:
        return _integer
    formats = {"date": _date, "date-time": _time, "singer.decimal": _decimal}
    return formats.get(column.get("format", ""), _text)


def _struct(
    name: str, columns: Record, required: t.Container[str] = ()
) -> type[msgspec.Struct]:
    """Return the type of a row, or of a related object, as it is documented."""
    fields = []
    for column, schema in columns.items():
        if "properties" in schema:
            kind: t.Any = _struct(column, schema["properties"])
        else:
            kind = _USUAL[schema.get("format", schema["type"][0])]
        fields.append((column, kind if column in required else kind | None))
    return msgspec.defstruct(name, fields, forbid_unknown_fields=True, gc=False)


def _is_in_utc(value: str) -> bool:
    """Tell whether a time is spelled as ``utc`` would spell it."""
    return len(value) == len("2026-02-15T09:45:00+00:00") and (
        value[10] == "T" and value.endswith("+00:00")
    )


def _text(value: t.Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | Decimal) and not isinstance(value, bool):
        return str(value)
    raise MisfitError


def _integer(value: t.Any) -> int | None:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        value = int(value)
    if value is None or _is_integer(value):
        return t.cast("int | None", value)
    raise MisfitError


def _is_integer(value: t.Any) -> bool:
    return type(value) is int and -BIGINT <= value < BIGINT


def _decimal(value: t.Any) -> str | None:
    text = _text(value)
    if text is None or _DECIMAL.fullmatch(text):
        return text
    raise MisfitError


def _date(value: t.Any) -> str | None:
    try:
        if value is None or date.fromisoformat(value).isoformat() == value:
            return t.cast("str | None", value)
    except (TypeError, ValueError):
        pass
    raise MisfitError


def _time(value: t.Any) -> str | None:
    moment = utc(value)
    if moment is None and value is not None:
        raise MisfitError
    if moment and (digits := _BEYOND_MICROSECONDS.search(value)) and int(digits[1]):
        raise MisfitError(fitting=moment)
    return moment


def _related(name: str, value: t.Any, parts: dict[str, Fit]) -> Record | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise MisfitError
    fitting: Record = dict.fromkeys(parts)
    rest: Record = {}
    for key, item in value.items():
        fitted, fits = _part(parts.get(key), item)
        if fits:
            fitting[key] = fitted
        else:
            rest[f"{name}.{key}"] = item
    if rest:
        raise MisfitError(fitting=fitting, rest=rest)
    return fitting


def _part(fit: Fit | None, item: t.Any) -> tuple[t.Any, bool]:
    try:
        return (fit(item), True) if fit else (None, False)
    except MisfitError:
        return None, False

"""The code stays small enough to be read: how much there may be of what."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path
from typing import Any

import msgspec
import pytest

CODE = Path(__file__).parent.parent / "tap_homele"
FILES = sorted(CODE.rglob("*.py"))

# Lines without blank lines, comments and docstrings.
MOST_LINES = 2460
MOST_LINES_OF_A_FILE = 265
# From its first line to its last, docstrings included.
MOST_LINES_OF_A_CLASS = 170
# Attributes that the methods of a class set after its constructor.
MOST_CHANGING_ATTRIBUTES = 6
# All that changes during a run is in one object.
CHANGING = {"Progress": 9}
# Methods that begin with an underscore, and are the SDK's.
MOST_PRIVATE_OVERRIDES = 1
# Of a value that stands in the state.
MOST_FIELDS = 8

NOT_CODE = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT),
    *(tokenize.DEDENT, tokenize.ENDMARKER),
}


def docstrings(tree: ast.AST) -> set[int]:
    """Return the lines that docstrings take."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and ast.get_docstring(node) is not None:
                lines |= {*range(first.lineno, (first.end_lineno or 0) + 1)}
    return lines


def lines_of_code(source: str) -> int:
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    return len(lines - docstrings(ast.parse(source)))


def classes(path: Path) -> list[ast.ClassDef]:
    tree = ast.parse(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]


def test_lines_are_counted() -> None:
    source = (
        '"""Doc."""\n\n# Comment\ndef f():\n    """Doc\n\n    more."""\n    return (\n'
    )
    assert lines_of_code(source + "        1\n    )\n") == 4


def test_all_files() -> None:
    assert sum(lines_of_code(path.read_text()) for path in FILES) <= MOST_LINES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CODE)))
def test_a_file(path: Path) -> None:
    assert lines_of_code(path.read_text()) <= MOST_LINES_OF_A_FILE
    for node in classes(path):
        length = (node.end_lineno or 0) - node.lineno + 1
        assert length <= MOST_LINES_OF_A_CLASS, node.name
        most = CHANGING.get(node.name, MOST_CHANGING_ATTRIBUTES)
        assert len(changing(node)) <= most, node.name


def changing(node: ast.ClassDef) -> set[str]:
    """Return the attributes that methods set, other than the constructor."""
    found = set()
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name != "__init__":
            for part in ast.walk(method):
                if (
                    isinstance(part, ast.Attribute)
                    and isinstance(part.ctx, ast.Store)
                    and isinstance(part.value, ast.Name)
                    and part.value.id == "self"
                ):
                    found.add(part.attr)
    return found


def imports(path: Path) -> set[str]:
    """Return the modules of the tap that a file imports, but for its types."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "tap_ho"
        ):
            for name in node.names:
                module = f"{node.module}.{name.name}"
                found.add(module if module in MODULES else str(node.module))
    return found


def name_of(path: Path) -> str:
    parts = path.relative_to(CODE.parent).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES: dict[str, Path] = {name_of(path): path for path in FILES}


def test_imports_go_in_no_circle() -> None:
    left = {name: imports(path) for name, path in MODULES.items()}
    while ready := {name for name, needs in left.items() if not needs & left.keys()}:
        left = {name: needs for name, needs in left.items() if name not in ready}

    assert left == {}


@pytest.mark.parametrize("name", [name for name in MODULES if ".sync" in name])
def test_a_sync_knows_neither_http_nor_the_sdk(name: str) -> None:
    source = MODULES[name].read_text()

    assert not {"requests", "singer_sdk"} & roots(ast.parse(source))
    assert imports(MODULES[name]) <= {
        *(module for module in MODULES if ".sync" in module),
        *("tap_homele.errors", "tap_homele.records"),
    }


def roots(tree: ast.AST) -> set[str]:
    """Return the packages that a file imports."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return {name.partition(".")[0] for name in names}


def test_private_methods_of_the_sdk() -> None:
    from singer_sdk import Tap  # noqa: PLC0415
    from singer_sdk.streams import RESTStream  # noqa: PLC0415

    theirs: set[str] = {*dir(Tap), *dir(RESTStream[Any])}
    ours = [
        method.name
        for path in FILES
        for node in classes(path)
        for method in node.body
        if isinstance(method, ast.FunctionDef)
    ]
    private = [
        name
        for name in ours
        if name in theirs and name.startswith("_") and not name.startswith("__")
    ]

    assert len(private) <= MOST_PRIVATE_OVERRIDES, private


def test_values_of_the_state_are_small() -> None:
    from tap_homele.sync import values  # noqa: PLC0415

    for value in vars(values).values():
        if isinstance(value, type) and issubclass(value, msgspec.Struct):
            assert len(value.__struct_fields__) <= MOST_FIELDS, value

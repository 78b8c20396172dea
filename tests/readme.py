"""The code that the documents show."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
CONTRIBUTING = README.with_name("CONTRIBUTING.md")
DOCS = sorted((README.parent / "docs").glob("*.md"))
OPERATING = README.parent / "docs" / "operating.md"


def block(heading: str, language: str, document: Path = README) -> str:
    """Give the first block of code in a language below a heading."""
    text = document.read_text().partition(heading)[2]
    return text.partition(f"```{language}\n")[2].partition("```")[0]

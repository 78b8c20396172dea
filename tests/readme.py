"""The README: what it shows is what is so."""

from __future__ import annotations

from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def block(heading: str, language: str) -> str:
    """Give the first block of code in a language below a heading."""
    text = README.read_text().partition(heading)[2]
    return text.partition(f"```{language}\n")[2].partition("```")[0]

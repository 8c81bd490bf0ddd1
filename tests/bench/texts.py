"""Texts to measure with."""
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def documents():
    """The documents of this project, one after the other."""
    return b"".join(path.read_bytes() for path in [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))])

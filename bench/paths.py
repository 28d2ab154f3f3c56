"""Where the benchmark finds programs and where it writes."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "bench/build"
"""Everything that can be made again; not under version control."""

PYTHON = ROOT / ".venv/bin/python"
"""The Python that runs chatterd, in all revisions; the benchmark itself runs in .venv/bench."""

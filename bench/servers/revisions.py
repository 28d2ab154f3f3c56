"""Revisions of chatterd as contenders: each checked out beside the others with ``git worktree``."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.errors import BenchError
from bench.paths import BUILD, ROOT
from bench.servers.chatterd import chatterd
from bench.servers.contender import Contender

FOLDER = BUILD / "revisions"

UNCOMMITTED = "worktree"
"""The name of the tree as it is, with changes that are not committed."""


@contextmanager
def checked_out(revisions: Sequence[str]) -> Iterator[list[Contender]]:
    """Check out revisions for a ``with`` block, and describe each as the contender ``chatterd@<revision>``.

    :param revisions: whatever git takes for a commit, or ``worktree``. One may be named twice: how far its two
        contenders differ is the noise of the comparison.
    :raises BenchError: git does not know a revision.
    """
    with ExitStack() as worktrees:
        folders: dict[str, Path] = {}
        contenders: list[Contender] = []
        for number, revision in enumerate(revisions):
            commit = UNCOMMITTED if revision == UNCOMMITTED else _commit(revision)
            if commit not in folders:
                folders[commit] = ROOT if commit == UNCOMMITTED else worktrees.enter_context(_worktree(commit))
            known_by_hash = commit.startswith(revision)
            name = f"chatterd@{revision[:10] if known_by_hash else revision}"
            if repeats := list(revisions[:number]).count(revision):
                name += f"#{repeats + 1}"
            label = name if commit == UNCOMMITTED or known_by_hash else f"{name} ({commit[:7]})"
            contenders.append(chatterd(name, label, folders[commit]))
        yield contenders


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    folder = FOLDER / commit
    _remove(folder)
    _git("worktree", "add", "--quiet", "--force", "--detach", str(folder), commit)
    try:
        yield folder
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a worktree, or the folder of one that git no longer knows."""
    if folder.exists():
        try:
            _git("worktree", "remove", "--force", str(folder))
        except BenchError:
            shutil.rmtree(folder)


def _commit(revision: str) -> str:
    return _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", why=revision)


def _git(*command: str, why: str = "") -> str:
    try:
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)  # noqa: S603, S607
    except OSError as error:
        raise BenchError(f"comparing revisions needs git: {error}") from error
    if done.returncode:
        reason = done.stderr.strip() or (f"{why} is no revision" if why else f"exit status {done.returncode}")
        raise BenchError(f"git {command[0]}: {reason}")
    return done.stdout.strip()

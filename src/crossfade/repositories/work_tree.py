"""Git in the repository that a folder is in, as it is: nothing is fetched, and nothing kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from crossfade.domain.errors import CrossfadeError, Invalid, NotFound
from crossfade.repositories.git import Git, _added, _id

SECONDS: Final = 120.0
_BASE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+~^-]{0,249}")


class WorkTreeGit(Git):
    """What was changed in a folder since a commit, and what was in it then. Paths are relative to the folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder.resolve()
        said = self._run(["rev-parse", "--show-toplevel"], self.folder).decode("utf-8", "surrogateescape")
        self.top = Path(said.rstrip("\n"))

    def _known(self, repository: str) -> Path:
        return self.top

    def base(self, ref: str) -> str:
        """The commit at which the work tree left a branch, tag or commit. Raises Invalid when there is none, NotFound."""
        hint = "A shallow clone lacks it: fetch the history (in GitHub Actions: checkout with fetch-depth: 0)."
        try:
            if not _BASE.fullmatch(ref) or ".." in ref:
                raise NotFound(ref)
            said = self._run(["rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}"], self.top)
            one = _id(said.decode("ascii", "replace").strip())
            return _id(self._run(["merge-base", one, "HEAD"], self.top).decode("ascii", "replace").strip())
        except NotFound:
            allowed = "a commit, branch or tag with which HEAD has history in common"
            raise Invalid("--base", ref, allowed, hint=hint) from None

    def changed_since(self, base: str) -> Mapping[str, frozenset[int]]:
        """Lines added or changed since a commit, also those not committed yet; files that git does not know lack."""
        said = self._run(
            ["diff", "--no-ext-diff", "--no-textconv", "--no-color", "--unified=0", "--no-renames",
             "--src-prefix=a/", "--dst-prefix=b/", "--diff-filter=AM", base, "--"],
            self.top, SECONDS,
        )  # fmt: skip
        inside = self.folder.relative_to(self.top)
        return {
            str(PurePosixPath(path).relative_to(inside)): numbers
            for path, numbers in _added(said).items()
            if PurePosixPath(path).is_relative_to(inside)
        }

    def was(self, base: str, path: str) -> bytes | None:
        """A file of the folder as a commit has it; None when it has none."""
        try:
            return self.file("", base, str(PurePosixPath(self.folder.relative_to(self.top)) / path))
        except CrossfadeError:
            return None

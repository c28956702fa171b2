"""Puts one version together: `build.py v3` has the program, its SQL, and the migrations up to the one that it needs.

Without an argument, BOOKSHOP_VERSION or the file VERSION says which."""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
NEEDS = {"v1": 0, "v2": 1, "v3": 2, "v4": 3, "v5": 4, "v6": 5}

version = (
    sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BOOKSHOP_VERSION") or (HERE / "VERSION").read_text().strip()
)
app = Path(os.environ.get("BOOKSHOP_OUTPUT", HERE / "build" / "app"))
shutil.rmtree(app, ignore_errors=True)
(app / "migrations").mkdir(parents=True)
shutil.copy(HERE / "shop.py", app)
shutil.copy(HERE / "versions" / version / "statements.py", app)
for file in sorted((HERE / "migrations").glob("*.yaml"))[: NEEDS[version]]:
    shutil.copy(file, app / "migrations")

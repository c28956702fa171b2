"""Puts one version together: `build.py v2` has the program and what that version does. The file VERSION says which, without one."""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
version = (
    sys.argv[1] if len(sys.argv) > 1 else os.environ.get("BOOKSHOP_VERSION") or (HERE / "VERSION").read_text().strip()
)
app = Path(os.environ.get("BOOKSHOP_OUTPUT", HERE / "build" / "app"))
shutil.rmtree(app, ignore_errors=True)
app.mkdir(parents=True)
shutil.copy(HERE / "shop.py", app)
shutil.copy(HERE / "versions" / version / "stock.py", app)

"""Buys a book as a person would, in a real browser. Playwright drives the Chromium of this machine."""

from __future__ import annotations

import os
import shutil
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(
        executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=["--no-sandbox"]
    )
    page = browser.new_page()
    page.goto(os.environ["CROSSFADE_URL"])
    page.get_by_label("Book").fill("7")
    page.get_by_role("button", name="Buy").click()
    said = page.get_by_role("status")
    said.filter(has_text=" ").wait_for(timeout=10_000)
    text = said.inner_text()
    browser.close()
print(f"The page says: {text}")
sys.exit(not text.startswith("Order "))

"""The page of headline claims says what the studies' files say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_holds_the_table_of_the_files():
    spec = importlib.util.spec_from_file_location("headlines", ROOT / "paper_figs" / "headlines.py")
    headlines = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(headlines)
    assert headlines.BEGIN + headlines.table() + headlines.END in (ROOT / "docs" / "claims.md").read_text()
    assert headlines.verdict(True, False) == "in part" and headlines.verdict(False, False) == "does not hold"

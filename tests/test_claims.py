"""The pages of headline claims and of the transfer table say what the studies' files say."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def study(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "paper_figs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_claims_holds_the_table_of_the_files():
    headlines = study("headlines")
    assert headlines.BEGIN + headlines.table() + headlines.END in (ROOT / "docs" / "claims.md").read_text()
    assert headlines.verdict(True, False) == "in part" and headlines.verdict(False, False) == "does not hold"


def test_the_pages_hold_the_transfer_table_of_the_cells(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "paper_figs")
    transfer = study("transfer_table")
    for page, text in transfer.pages().items():
        assert f"{transfer.BEGIN}\n\n{text}\n\n<!-- end -->" in page.read_text(encoding="utf-8")

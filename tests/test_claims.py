"""The pages of headline claims and of the transfer table say what the studies' files say."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "paper_figs")
    return loaded


def loaded(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "paper_figs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def between(begin, text):
    return f"{begin}\n\n{text}\n\n<!-- end -->"


def test_the_page_of_claims_holds_the_table_of_the_files(study):
    headlines = study("headlines")
    assert between(headlines.BEGIN, headlines.table()) in (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert headlines.verdict(True, False) == "in part" and headlines.verdict(False, False) == "does not hold"


def test_the_pages_hold_the_transfer_table_of_the_cells(study):
    transfer = study("transfer_table")
    for page, text in transfer.pages().items():
        assert between(transfer.BEGIN, text) in page.read_text(encoding="utf-8")

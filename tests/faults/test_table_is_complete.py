"""Every row has its tests, every cause is in the table, and the page says the same."""

import ast
import json
import runpy
from pathlib import Path

import pytest

from policies.runtime.fault import Reason
from policies.runtime.fault_table import FAULT_TABLE

HERE = Path(__file__).parent
# What is no fault: people and the ordinary course of things.
NO_FAULT = {Reason.OPERATOR, Reason.FIRST_CHUNK, Reason.SENSORS_PLAUSIBLE, Reason.NOT_ARMED}


def functions(*, in_graph):
    """Names of the tests of the table, in the graph or without it."""
    paths = [p for p in HERE.glob("test_fault_table*.py") if ("_in_graph" in p.stem) == in_graph]
    assert len(paths) >= 2
    nodes = (node for path in paths for node in ast.parse(path.read_text()).body)
    return [node.name for node in nodes if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("row", FAULT_TABLE, ids=lambda row: row.name)
def test_row_has_a_test_of_the_same_name(row):
    assert functions(in_graph=False).count(f"test_{row.name}") == 1
    assert functions(in_graph=True).count(f"test_{row.name}_in_graph") == row.in_graph


def test_every_cause_belongs_to_a_row():
    named = {reason for row in FAULT_TABLE for reason in row.reasons}
    assert named == set(Reason) - NO_FAULT
    assert len({row.name for row in FAULT_TABLE}) == len(FAULT_TABLE) >= 34


def test_page_is_what_table_and_measurements_give():
    document = runpy.run_path(str(HERE / "document.py"))
    measured = json.loads((HERE / "measured.json").read_text())
    assert document["DOCUMENT"].read_text() == document["render"](measured), (
        "run: python tests/faults/document.py"
    )
    for name, seen in measured.items():
        assert name.removesuffix("_in_graph") in {row.name for row in FAULT_TABLE}
        assert seen["runs"] > 0

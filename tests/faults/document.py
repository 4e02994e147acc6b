"""Writes docs/faults.md from its template, the fault table and what its tests measured.

pytest tests/faults --fault-results tests/faults/measured.json
python tests/faults/document.py
"""

from __future__ import annotations

import json
from pathlib import Path

from policies.runtime.fault_table import FAULT_TABLE, FaultRow

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs/faults.md"
TEMPLATE = HERE / "faults_template.md"


def time_of(row: FaultRow, measured: dict[str, dict[str, float]]) -> str:
    """The cell of measured times."""
    unit, graph = measured.get(row.name), measured.get(f"{row.name}_in_graph")
    parts = []
    if row.limit_s == 0.0:
        parts.append("same call")
    elif unit:
        parts.append(f"{1e3 * unit['max_s']:.0f} ms")
    if graph:
        parts.append(f"graph {1e3 * graph['max_s']:.0f} ms")
    return ", ".join(parts) or "-"


def render(measured: dict[str, dict[str, float]]) -> str:
    """The whole page."""
    lines = [
        "| row | fault | detection | reaction | promised | measured | reasons |",
        "|" + "---|" * 7,
    ]
    for row in FAULT_TABLE:
        name = f"`test_{row.name}`" + (f", `test_{row.name}_in_graph`" if row.in_graph else "")
        promised = {None: "-", 0.0: "same call"}.get(row.limit_s) or f"{1e3 * row.limit_s:.0f} ms"
        reasons = ", ".join(f"`{reason.value}`" for reason in row.reasons) or "-"
        cells = (name, row.fault, row.detection, row.reaction, promised, time_of(row, measured))
        lines.append("| " + " | ".join((*cells, reasons)) + " |")
    return TEMPLATE.read_text().replace("{table}", "\n".join(lines))


def main() -> None:
    """Write the page."""
    DOCUMENT.write_text(render(json.loads((HERE / "measured.json").read_text())))


if __name__ == "__main__":
    main()

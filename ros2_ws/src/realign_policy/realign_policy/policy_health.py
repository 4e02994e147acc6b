"""What a policy tells of itself on ``/diagnostics``."""

from __future__ import annotations

import json
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from policies.runtime.failure import PolicyFailure


def health_message(
    robot: str, *, active: bool, report: dict[str, Any], failure: PolicyFailure | None
) -> DiagnosticArray:
    """State and figures of a policy; an error while it has failed.

    Args:
        robot: robot name.
        active: the policy answers.
        report: figures of its engine, JSON-ready.
        failure: why it stopped answering, or None.
    """
    status = DiagnosticStatus(
        level=DiagnosticStatus.OK if failure is None else DiagnosticStatus.ERROR,
        name="realign policy",
        message=failure.text if failure else ("active" if active else "inactive"),
        hardware_id=robot,
        values=[KeyValue(key=key, value=json.dumps(value)) for key, value in report.items()],
    )
    return DiagnosticArray(status=[status])

"""Commands ``realign policy ...``: plain functions, of which the command line is made."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Any

from policies.errors import InputError


def policy_import_asap(
    onnx: Path, *, meta: Path, name: str, out: Path, overwrite: bool = False
) -> None:
    """Import one of ASAP's motion-tracking policies (Unitree G1, 50 Hz).

    Args:
        onnx: the network, as ASAP exports it.
        meta: JSON with joints, default pose (rad), action scale, and per policy the motion
            length (s) and start pose (rad).
        name: which of the policies in ``meta`` it is.
        out: checkpoint directory to create.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: see :func:`policies.actor.asap.import_asap`.
    """
    from policies.actor.asap import import_asap

    config = import_asap(onnx, meta, name, out, overwrite=overwrite)
    print(f"{out}: policy {config.name} for {config.robot}, {config.duration_s:g} s of motion")
    print(f"note: {config.source['note']}")


def policy_inspect(policy: Path, *, json: Path | None = None) -> None:
    """Check a policy checkpoint and show what it needs.

    Args:
        policy: checkpoint directory.
        json: also write all of it to this file, which must not exist.

    Raises:
        InputError: the checkpoint is damaged or does not fit its robot, or ``json`` exists.
    """
    from policies.checkpoint import inspect

    if json is not None and json.exists():
        raise InputError(f"{json}: expected a new file, but it exists; choose another name")
    info = inspect(policy)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(jsonlib.dumps(info, indent=1) + "\n", encoding="utf-8")
    for label, text in _summary(info):
        print(f"{label:<13}{text}")


def _summary(info: dict[str, Any]) -> list[tuple[str, str]]:
    action, duration = info["action"], info["duration_s"]
    terms = [
        f"{entry['term']} x{entry.get('history', 1)}"
        + (f" ({', '.join(t['term'] for t in entry['terms'])})" if "terms" in entry else "")
        for entry in info["observation"]
    ]
    return [
        ("policy", f"{info['name']} ({info['kind']})"),
        ("robot", f"{info['robot']}, fingerprint {info['robot_fingerprint']}"),
        ("rate", f"{info['rate_hz']:g} Hz"),
        ("duration", "endless" if duration is None else f"{duration:g} s"),
        ("topics", ", ".join(info["topics"])),
        ("observation", f"{info['observation_size']} values: " + ", ".join(terms)),
        (
            "action",
            f"{action['type']}, {action['horizon']} step(s) of {action['dt_s']:g} s, "
            f"new plan every {action['replan_every']}",
        ),
        ("commands", f"{len(action['joints'])} joints: " + ", ".join(action["joints"])),
        ("holds", ", ".join(info["held_joints"]) or "no joint"),
        ("sha256", info["sha256"]),
    ]

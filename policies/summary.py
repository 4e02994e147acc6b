"""What a checkpoint is and needs, in lines for people: what ``realign policy inspect`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

Line = tuple[str, str]


def summary_lines(info: Mapping[str, Any]) -> list[Line]:
    """Label and text of each line.

    Args:
        info: what :func:`policies.checkpoint.inspect` says.
    """
    of_kind = {"actor": _actor, "lerobot_model": _lerobot, "remote_policy": _remote}
    title, lines = of_kind.get(info["type"], _chunk)(info)
    robot = f"{info['robot']}, fingerprint {info['robot_fingerprint']}" if info["robot"] else "none"
    return [
        ("policy", f"{info['name']}{title}"),
        ("robot", robot),
        ("rate", f"{info['rate_hz']:g} Hz"),
        *lines,
        ("sha256", info["sha256"]),
    ]


def _actor(info: Mapping[str, Any]) -> tuple[str, list[Line]]:
    action, duration = info["action"], info["duration_s"]
    terms = [
        f"{entry['term']} x{entry.get('history', 1)}"
        + (f" ({', '.join(t['term'] for t in entry['terms'])})" if "terms" in entry else "")
        for entry in info["observation"]
    ]
    return f" ({info['kind']})", [
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
    ]


def _chunk(info: Mapping[str, Any]) -> tuple[str, list[Line]]:
    spec, sampler, network = info["spec"], info["sampler"], info["network"]
    known = info.get("instructions")
    return f" ({info['kind']})", [
        ("network", f"{network['type']}, width {network['width']}, depth {network['depth']}"),
        ("sampler", f"{sampler['name']}, {sampler['steps']} steps"),
        ("samplers", ", ".join(info["samplers"])),
        _observation(spec, _short(spec["state_names"])),
        _cameras(spec["cameras"]),
        *([] if known is None else [("instructions", f"{len(known)} known")]),
        _plan(spec, _short(spec["action_names"])),
    ]


def _remote(info: Mapping[str, Any]) -> tuple[str, list[Line]]:
    spec = info["spec"]
    return f", served at {info['url']} ({info['protocol']})", [
        _observation(spec, _short(spec["state_names"])),
        _cameras(spec["cameras"]),
        _plan(spec, _short(spec["action_names"])),
    ]


def _lerobot(info: Mapping[str, Any]) -> tuple[str, list[Line]]:
    state, action = (
        ", ".join(f"{entry['quantity']} ({entry['unit']})" for entry in info[part])
        for part in ("state", "action")
    )
    return f" (LeRobot {info['kind']})", [
        ("topics", ", ".join(info["topics"])),
        _observation(info, state),
        _cameras(info["cameras"], " RGB"),
        ("instruction", info["instruction"] or "none"),
        _plan(info, action),
    ]


def _observation(spec: Mapping[str, Any], what: str) -> Line:
    return "observation", f"{spec['observation_horizon']} x {what}"


def _cameras(cameras: Sequence[Mapping[str, Any]], colours: str = "") -> Line:
    seen = [f"{c['name']} {c['width']} x {c['height']}{colours}" for c in cameras]
    return "cameras", ", ".join(seen) or "none"


def _plan(spec: Mapping[str, Any], what: str) -> Line:
    return (
        "plan",
        f"{spec['prediction_horizon']} actions, {spec['action_horizon']} carried out, of {what}",
    )


def _short(names: Sequence[str]) -> str:
    """Names for a line: a quantity of many joints once, with their number; --json has them all."""
    parts = []
    for quantity, group in groupby(names, key=lambda name: name.partition("/")[0]):
        same = list(group)
        parts += [f"{quantity} of {len(same)} joints"] if len(same) > 3 else same
    return ", ".join(parts)

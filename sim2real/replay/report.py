"""What a replay shows on a page: errors per horizon and joint, and a few windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.errors import InputError
from sim2real.replay.open_loop import ReplayResult
from sim2real.report import Bars, Lines, Pictures, Section, Table, Text

_METRICS = (
    ("E_g_mpjpe_mm", "E_g-mpjpe", "mm", 2),
    ("E_mpjpe_mm", "E_mpjpe", "mm", 2),
    ("E_vel_mm_per_frame", "E_vel", "mm/frame", 3),
    ("E_acc_mm_per_frame2", "E_acc", "mm/frame²", 3),
    ("qpos_rmse_rad", "joint RMSE", "rad", 4),
)
_EXPLAIN = (
    "E_g-mpjpe is the mean distance between body positions in the world; E_mpjpe the same with the "
    "root removed; E_vel and E_acc compare their first and second differences from frame to frame. "
    "Each is a mean over the frames up to the horizon, from a reset to the logged state."
)


def _title(method: str) -> str:
    return method.replace("_", " ")


def metric_rows(content: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the table of errors, from the JSON of a replay.

    With two methods the last column is the change of the second against the first.
    """
    methods: dict[str, Any] = content["methods"]
    pair = list(methods)[:2] if len(methods) == 2 else []
    header = ("error", "horizon", *(_title(m) for m in methods), *(["change"] if pair else []))
    rows = []
    for key, label, unit, digits in _METRICS:
        for i, horizon in enumerate(content["horizons_s"]):
            values = {m: float(errors[key][i]) for m, errors in methods.items()}
            row = [f"{label}, {unit}", f"{horizon:g} s"]
            row += [f"{v:.{digits}f}" for v in values.values()]
            if pair:
                before, after = (values[m] for m in pair)
                row.append(f"{100.0 * (after / before - 1.0):+.0f} %" if before > 0.0 else "")
            rows.append(tuple(row))
    return header, rows


def result_sections(content: Mapping[str, Any], *, intro: str = "") -> list[Section]:
    """Sections of a page from the JSON of a replay.

    Raises:
        InputError: it is not the JSON of a replay.
    """
    try:
        header, rows = metric_rows(content)
        methods: dict[str, Any] = content["methods"]
        joints = tuple(str(name).removesuffix("_joint") for name in content["joint_names"])
        last = content["horizons_s"][-1]
        per_joint = {
            _title(m): [1e3 * float(v) for v in errors["qpos_rmse_per_joint_rad"][-1]]
            for m, errors in methods.items()
        }
        global_error = {
            _title(m): [float(v) for v in errors["E_g_mpjpe_mm"]] for m, errors in methods.items()
        }
        counts = (
            f"Robot {content['robot']}: {content['windows']} windows of {content['episodes']} "
            f"episodes at {content['rate_hz']:g} Hz."
        )
        labels = tuple(f"{h:g} s" for h in content["horizons_s"])
        for names, series in ((labels, global_error), (joints, per_joint)):
            if any(len(values) != len(names) for values in series.values()):
                raise ValueError("not as many errors as horizons or joints")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"expected the JSON of a replay, got something else ({type(error).__name__}: {error}); "
            "run `realign replay` with --json again"
        ) from None
    return [
        Text(text=f"{intro} {counts}".strip()),
        Bars(
            heading="Distance between simulated and logged bodies",
            labels=labels,
            series=global_error,
            unit="E_g-mpjpe, mm",
        ),
        Table(heading="Errors per horizon", header=header, rows=tuple(rows), note=_EXPLAIN),
        Bars(
            heading=f"Error of each joint over {last:g} s",
            labels=joints,
            series=per_joint,
            unit="RMSE, mrad",
        ),
    ]


def replay_sections(
    result: ReplayResult, *, intro: str = "", strip: Pictures | None = None
) -> list[Section]:
    """Sections of a page for a replay, with the joint that errs most in a few windows.

    Args:
        result: the replay.
        intro: a paragraph to begin with.
        strip: pictures of an episode (:func:`sim2real.replay.episode_page.camera_strip`), or None.
    """
    sections = result_sections(result.to_json(), intro=intro)
    if strip is not None:
        sections.insert(1, strip)
    for number, window in enumerate(result.trajectories, start=1):
        error = window.methods["open_loop"] - window.logged
        joint = int(np.argmax((error**2).mean(axis=0)))
        curves = {"logged": window.logged, **{_title(m): q for m, q in window.methods.items()}}
        time_s = (np.arange(len(window.logged)) / result.rate_hz).tolist()
        name = result.joint_names[joint].removesuffix("_joint")
        sections.append(
            Lines(
                heading=f"Window {number}: {name}",
                x=time_s,
                series={label: q[:, joint].tolist() for label, q in curves.items()},
                x_label="time since the reset, s",
                y_label="position, rad",
            )
        )
        sections.append(
            Lines(
                heading="",
                x=time_s,
                series={
                    _title(m): (1e3 * (q - window.logged)[:, joint]).tolist()
                    for m, q in window.methods.items()
                },
                x_label="time since the reset, s",
                y_label="error, mrad",
            )
        )
    return sections

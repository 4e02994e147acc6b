"""The faults that the runtime survives: one row each, with a test of the same name.

``tests/faults`` holds ``test_<name>`` for every row, and ``test_<name>_in_graph`` where processes
or topics are involved; docs/faults.md is written from this table and what those tests measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.runtime.fault import Reason


@dataclass(frozen=True, kw_only=True)
class FaultRow:
    """One fault.

    Attributes:
        name: of the row and of its tests.
        fault: what goes wrong.
        detection: how it is noticed.
        reaction: what is done.
        reasons: typed causes that the guard gives.
        in_graph: True where processes or topics are involved: there is a test in the ROS graph too.
        limit_s: longest time from the fault to the reaction that is promised, s; 0 means in the
            same call, before any command; None where time does not matter.
    """

    name: str
    fault: str
    detection: str
    reaction: str
    reasons: tuple[Reason, ...] = ()
    in_graph: bool = False
    limit_s: float | None = None


FAULT_TABLE = (
    FaultRow(
        name="sensor_drop",
        fault="joint states or IMU stop",
        detection="age of the newest joint state 50 ms, of the newest attitude 50 ms (legged)",
        reaction="HOLD, then DAMP after 0.5 s, also if the sensor comes back",
        reasons=(Reason.STATE_SILENT, Reason.IMU_SILENT),
        in_graph=True,
        limit_s=0.07,
    ),
    FaultRow(
        name="sensor_frozen",
        fault="joint states repeat the same values under new stamps",
        detection="bit-equal for 0.2 s while the command travels 0.01 rad",
        reaction="HOLD, then DAMP",
        reasons=(Reason.STATE_FROZEN,),
        in_graph=True,
        limit_s=0.4,
    ),
    FaultRow(
        name="sensor_non_finite",
        fault="NaN or Inf in joint states, or in the IMU",
        detection="every message is checked; an attitude that is not finite counts as none",
        reaction="HOLD in the same period, then DAMP",
        reasons=(Reason.STATE_NON_FINITE, Reason.IMU_SILENT),
        in_graph=True,
        limit_s=0.07,
    ),
    FaultRow(
        name="camera_silent",
        fault="a camera's images stop",
        detection="stamp of the newest image, 0.2 s before that of the joint states",
        reaction="the policy does not answer: HOLD, then DAMP; goes on if they come back within "
        "0.5 s",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
    ),
    FaultRow(
        name="camera_frozen",
        fault="a camera repeats one image under new stamps",
        detection="bit-equal for 0.5 s while a joint moves by 0.2 rad; in real time",
        reaction="as `camera_silent`",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
    ),
    FaultRow(
        name="camera_garbled",
        fault="images of another size or encoding, cut off, or no images at all",
        detection="each image is checked before it is decoded",
        reaction="the policy does not answer that one: one bad image is a delay, many are HOLD, "
        "then DAMP",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
    ),
    FaultRow(
        name="stale_observation",
        fault="a chunk answers an old observation, or overtakes another, or is from the future",
        detection="the chunk carries the stamp of its observation: 0.3 s old, older than the chunk "
        "in use, or 50 ms ahead",
        reaction="refused whole; steps in the past are skipped by time, not by index",
        reasons=(Reason.STALE_CHUNK, Reason.OLD_CHUNK, Reason.FUTURE_CHUNK),
        in_graph=True,
        limit_s=0.0,
    ),
    FaultRow(
        name="bad_action",
        fault="NaN, Inf, another shape, a thousand radians",
        detection="every chunk is checked whole before any of it is used",
        reaction="refused whole, the old chunk goes on; three in 1 s: DAMP",
        reasons=(Reason.NON_FINITE, Reason.BAD_SHAPE, Reason.REPEATED_REFUSALS),
        in_graph=True,
        limit_s=0.0,
    ),
    FaultRow(
        name="action_out_of_limits",
        fault="positions, speeds, accelerations or torques beyond the robot's",
        detection="limits of the robot; beyond three times the half range it is gross",
        reaction="clamped and counted, warning after 0.5 s without a break; gross: refused",
        reasons=(Reason.OUT_OF_LIMITS, Reason.CLAMPED_LONG),
        limit_s=0.0,
    ),
    FaultRow(
        name="first_action_jump",
        fault="the first target is far from where the robot stands",
        detection="target against measured pose, every time the robot becomes ACTIVE",
        reaction="blended in over 1.5 s",
        limit_s=0.0,
    ),
    FaultRow(
        name="policy_stall",
        fault="the policy answers late, or hangs (SIGSTOP)",
        detection="two of its periods without a new chunk",
        reaction="HOLD (decelerates); goes on if it comes back within 0.5 s, else DAMP",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
        limit_s=0.06,
    ),
    FaultRow(
        name="inference_error",
        fault="the model raises: out of memory, CUDA error, a bug",
        detection="caught around the model and typed; to the guard it is silence",
        reaction="no further answers until it is activated again; HOLD, then DAMP",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
        limit_s=0.06,
    ),
    FaultRow(
        name="policy_killed",
        fault="the policy's process ends (kill -9)",
        detection="two of its periods without a new chunk; exit code seen by `realign run`",
        reaction="HOLD, then DAMP; never armed again by itself; exit code 3",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
        limit_s=0.06,
    ),
    FaultRow(
        name="worker_killed",
        fault="the interpreter that evaluates a LeRobot policy ends, or does not answer",
        detection="its connection ends; a time limit on each answer",
        reaction="no further answers until it is activated again, which starts another; HOLD, then "
        "DAMP; the policy's node lives on and says why",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
    ),
    FaultRow(
        name="server_killed",
        fault="the server of a remote policy ends (kill -9)",
        detection="the connection ends",
        reaction="the plan goes on to its end (80 ms), then as `worker_killed`; activated again it "
        "connects again",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
        limit_s=0.14,
    ),
    FaultRow(
        name="server_slow",
        fault="the server of a remote policy does not answer in time",
        detection="a time limit on each answer; to the guard it is silence before",
        reaction="as `server_killed`; the connection is closed: no answer can come too late",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
        limit_s=0.14,
    ),
    FaultRow(
        name="server_garbage",
        fault="the server of a remote policy sends nonsense, NaN, 2 MB, or the answer to another "
        "question",
        detection="size before it is read, form before it is built, request id, shape, finiteness",
        reaction="as `server_slow`",
        reasons=(Reason.POLICY_SILENT,),
        in_graph=True,
        limit_s=0.14,
    ),
    FaultRow(
        name="guard_killed",
        fault="the guard's process ends or hangs",
        detection="the driver: no command for 0.1 s (MuJoCo), 50 ms (Unitree)",
        reaction="the driver damps, or brakes an arm",
        in_graph=True,
        limit_s=0.3,
    ),
    FaultRow(
        name="driver_disconnect",
        fault="the driver goes away and comes back",
        detection="joint states: 50 ms in motion, 1 s at rest",
        reaction="in motion HOLD, then DAMP; at rest UNCONFIGURED: plausible sensors, then an "
        "operator, then the ramp",
        reasons=(Reason.STATE_SILENT, Reason.DISCONNECTED),
        in_graph=True,
        limit_s=0.07,
    ),
    FaultRow(
        name="second_commander",
        fault="another publisher of joint_command",
        detection="publishers counted at arming and every 0.5 s",
        reaction="arming refused; DAMP while in motion",
        reasons=(Reason.SECOND_COMMANDER,),
        in_graph=True,
        limit_s=1.0,
    ),
    FaultRow(
        name="clock_jump",
        fault="stamps jump back, or more than 0.5 s forward (simulator reset, NTP, looped bag)",
        detection="stamps against the steady clock; a clock that stands still is a pause",
        reaction="chunk flushed, HOLD; goes on with an answer to a new observation",
        reasons=(Reason.CLOCK_JUMP,),
        in_graph=True,
        limit_s=0.0,
    ),
    FaultRow(
        name="late_messages",
        fault="messages are lost, repeated, late, or overtake each other",
        detection="stamps",
        reaction="repeated and overtaken ones are dropped and counted; lost ones count as silence",
        reasons=(Reason.LATE_STATE, Reason.OLD_CHUNK),
        in_graph=True,
        limit_s=0.0,
    ),
    FaultRow(
        name="network_partition",
        fault="nothing gets through between policy and robot, then everything at once",
        detection="silence; late answers by their stamps",
        reaction="HOLD; what comes late is refused; goes on within 0.5 s, else DAMP",
        reasons=(Reason.POLICY_SILENT, Reason.STALE_CHUNK, Reason.OLD_CHUNK),
        in_graph=True,
        limit_s=0.06,
    ),
    FaultRow(
        name="bad_checkpoint",
        fault="a checkpoint is damaged (one flipped byte), or not one",
        detection="sha256 of every file, config.json's own in itself; schema, ranges, shapes, "
        "finiteness, fingerprint, before any use",
        reaction="refused in one sentence; `realign run` ends with exit code 2",
        in_graph=True,
    ),
    FaultRow(
        name="wrong_robot",
        fault="policy of another robot; joints missing, twice, or in another order",
        detection="fingerprint of the robot; joints by name",
        reaction="refused; another order is put right",
    ),
    FaultRow(
        name="wrong_units",
        fault="degrees for radians, swapped quaternion, acceleration in g or of the wrong sign",
        detection="joints inside 1.2 times their ranges; |q| = 1; at rest 9.81 m/s^2 that agrees "
        "with the attitude",
        reaction="stays UNCONFIGURED, cannot be armed; says which value",
        reasons=(Reason.IMPLAUSIBLE,),
        in_graph=True,
    ),
    FaultRow(
        name="rate_mismatch",
        fault="recorded slow, stamped fast: stamps pass at another pace than time",
        detection="pace of stamps against the steady clock, over 1 s",
        reaction="5 %: warning; 25 %: arming refused",
        reasons=(Reason.RATE_MISMATCH,),
        in_graph=True,
    ),
    FaultRow(
        name="operator_stop",
        fault="e-stop pressed, or the operator's switch falls silent",
        detection="service `/guard/estop`, topic `operator_stop`; silence of 1 s if configured",
        reaction="DAMP in one step from every state, latched; reset and arm to go on",
        reasons=(Reason.ESTOP, Reason.OPERATOR_LOST),
        in_graph=True,
        limit_s=0.1,
    ),
    FaultRow(
        name="body_limits",
        fault="tilt, fast base, fast joints, hot motors, empty battery",
        detection="tilt 1.0 rad, base 15 rad/s, joint 1.2 times its speed, winding 120 C, case "
        "85 C, charge 20 %",
        reaction="DAMP; an empty battery is not armed",
        reasons=(
            Reason.TILT,
            Reason.BASE_RATE,
            Reason.OVERSPEED,
            Reason.OVERHEATED,
            Reason.BATTERY_LOW,
        ),
        in_graph=True,
        limit_s=0.1,
    ),
    FaultRow(
        name="overrun",
        fault="the guard does not get the processor in time",
        detection="periods missed in a row",
        reaction="more than 3: warning; more than 10: HOLD, goes on with a new chunk",
        reasons=(Reason.OVERRUN,),
        in_graph=True,
    ),
    FaultRow(
        name="launcher_killed",
        fault="`realign run` itself ends (kill -9, a closed terminal)",
        detection="a pipe that every process of the graph holds ends with it",
        reaction="DAMP at once; then policy, driver, guard and recorder end by themselves, in this "
        "order, within 4 s",
        reasons=(Reason.LAUNCHER_LOST,),
        in_graph=True,
        limit_s=0.1,
    ),
    FaultRow(
        name="recorder_fault",
        fault="disk full, recorder killed",
        detection="free space before and while recording; errors of the file; exit code",
        reaction="the policy goes on; the bag keeps every whole chunk; `realign run` says so at "
        "the end, exit code 3",
        in_graph=True,
    ),
    FaultRow(
        name="damaged_file",
        fault="cut, flipped or hostile bag, checkpoint, episodes, JSON, YAML",
        detection="checksums and manifest; caps on size, count and ratio before anything unfolds",
        reaction="one sentence, exit code 2; `realign bag salvage` brings back whole chunks",
    ),
    FaultRow(
        name="hostile_peer",
        fault="somebody else on the network publishes, or sends nonsense",
        detection="this host only by default; messages checked for form, size and value",
        reaction="refused; SROS 2 policies are shipped (SECURITY.md)",
        reasons=(Reason.BAD_SHAPE,),
        in_graph=True,
    ),
)

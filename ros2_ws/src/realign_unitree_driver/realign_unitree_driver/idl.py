"""Unitree's messages as IDL types for CycloneDDS; all final, members numbered in order.

``byte`` and not ``uint8``: the wire bytes are the same, but a CycloneDDS 0.10 peer (the robot's)
does not know the type object of ``uint8`` and crashes on it.
"""

from dataclasses import dataclass

from cyclonedds.idl import IdlStruct
from cyclonedds.idl.annotations import autoid, final
from cyclonedds.idl.types import array, byte, float32, int16, int32, int64, sequence, uint16, uint32


@dataclass
@final
@autoid("sequential")
class HgMotorCmd(IdlStruct, typename="unitree_hg.msg.dds_.MotorCmd_"):
    """Set-point of one motor, G1 family."""

    mode: byte
    q: float32
    dq: float32
    tau: float32
    kp: float32
    kd: float32
    reserve: uint32


@dataclass
@final
@autoid("sequential")
class HgLowCmd(IdlStruct, typename="unitree_hg.msg.dds_.LowCmd_"):
    """Low-level command, G1 family."""

    mode_pr: byte
    mode_machine: byte
    motor_cmd: array[HgMotorCmd, 35]
    reserve: array[uint32, 4]
    crc: uint32


@dataclass
@final
@autoid("sequential")
class HgImuState(IdlStruct, typename="unitree_hg.msg.dds_.IMUState_"):
    """IMU, G1 family."""

    quaternion: array[float32, 4]
    gyroscope: array[float32, 3]
    accelerometer: array[float32, 3]
    rpy: array[float32, 3]
    temperature: int16


@dataclass
@final
@autoid("sequential")
class HgMotorState(IdlStruct, typename="unitree_hg.msg.dds_.MotorState_"):
    """State of one motor, G1 family."""

    mode: byte
    q: float32
    dq: float32
    ddq: float32
    tau_est: float32
    temperature: array[int16, 2]
    vol: float32
    sensor: array[uint32, 2]
    motorstate: uint32
    reserve: array[uint32, 4]


@dataclass
@final
@autoid("sequential")
class HgLowState(IdlStruct, typename="unitree_hg.msg.dds_.LowState_"):
    """Low-level state, G1 family."""

    version: array[uint32, 2]
    mode_pr: byte
    mode_machine: byte
    tick: uint32
    imu_state: HgImuState
    motor_state: array[HgMotorState, 35]
    wireless_remote: array[byte, 40]
    reserve: array[uint32, 4]
    crc: uint32


@dataclass
@final
@autoid("sequential")
class GoMotorCmd(IdlStruct, typename="unitree_go.msg.dds_.MotorCmd_"):
    """Set-point of one motor, Go2 family."""

    mode: byte
    q: float32
    dq: float32
    tau: float32
    kp: float32
    kd: float32
    reserve: array[uint32, 3]


@dataclass
@final
@autoid("sequential")
class GoBmsCmd(IdlStruct, typename="unitree_go.msg.dds_.BmsCmd_"):
    """Battery command, Go2 family."""

    off: byte
    reserve: array[byte, 3]


@dataclass
@final
@autoid("sequential")
class GoLowCmd(IdlStruct, typename="unitree_go.msg.dds_.LowCmd_"):
    """Low-level command, Go2 family."""

    head: array[byte, 2]
    level_flag: byte
    frame_reserve: byte
    sn: array[uint32, 2]
    version: array[uint32, 2]
    bandwidth: uint16
    motor_cmd: array[GoMotorCmd, 20]
    bms_cmd: GoBmsCmd
    wireless_remote: array[byte, 40]
    led: array[byte, 12]
    fan: array[byte, 2]
    gpio: byte
    reserve: uint32
    crc: uint32


@dataclass
@final
@autoid("sequential")
class GoImuState(IdlStruct, typename="unitree_go.msg.dds_.IMUState_"):
    """IMU, Go2 family."""

    quaternion: array[float32, 4]
    gyroscope: array[float32, 3]
    accelerometer: array[float32, 3]
    rpy: array[float32, 3]
    temperature: byte


@dataclass
@final
@autoid("sequential")
class GoMotorState(IdlStruct, typename="unitree_go.msg.dds_.MotorState_"):
    """State of one motor, Go2 family."""

    mode: byte
    q: float32
    dq: float32
    ddq: float32
    tau_est: float32
    q_raw: float32
    dq_raw: float32
    ddq_raw: float32
    temperature: byte
    lost: uint32
    reserve: array[uint32, 2]


@dataclass
@final
@autoid("sequential")
class GoBmsState(IdlStruct, typename="unitree_go.msg.dds_.BmsState_"):
    """Battery state, Go2 family."""

    version_high: byte
    version_low: byte
    status: byte
    soc: byte
    current: int32
    cycle: uint16
    bq_ntc: array[byte, 2]
    mcu_ntc: array[byte, 2]
    cell_vol: array[uint16, 15]


@dataclass
@final
@autoid("sequential")
class GoLowState(IdlStruct, typename="unitree_go.msg.dds_.LowState_"):
    """Low-level state, Go2 family."""

    head: array[byte, 2]
    level_flag: byte
    frame_reserve: byte
    sn: array[uint32, 2]
    version: array[uint32, 2]
    bandwidth: uint16
    imu_state: GoImuState
    motor_state: array[GoMotorState, 20]
    bms_state: GoBmsState
    foot_force: array[int16, 4]
    foot_force_est: array[int16, 4]
    tick: uint32
    wireless_remote: array[byte, 40]
    bit_flag: byte
    adc_reel: float32
    temperature_ntc1: byte
    temperature_ntc2: byte
    power_v: float32
    power_a: float32
    fan_frequency: array[uint16, 4]
    reserve: uint32
    crc: uint32


@dataclass
@final
@autoid("sequential")
class RequestIdentity(IdlStruct, typename="unitree_api.msg.dds_.RequestIdentity_"):
    """Number of a request, and what it asks."""

    id: int64
    api_id: int64


@dataclass
@final
@autoid("sequential")
class RequestLease(IdlStruct, typename="unitree_api.msg.dds_.RequestLease_"):
    """Lease of a request; 0 for none."""

    id: int64


@dataclass
@final
@autoid("sequential")
class RequestPolicy(IdlStruct, typename="unitree_api.msg.dds_.RequestPolicy_"):
    """How a request is to be handled."""

    priority: int32
    noreply: bool


@dataclass
@final
@autoid("sequential")
class RequestHeader(IdlStruct, typename="unitree_api.msg.dds_.RequestHeader_"):
    """Header of a request."""

    identity: RequestIdentity
    lease: RequestLease
    policy: RequestPolicy


@dataclass
@final
@autoid("sequential")
class Request(IdlStruct, typename="unitree_api.msg.dds_.Request_"):
    """Request to a service of the robot; the parameter is JSON."""

    header: RequestHeader
    parameter: str
    binary: sequence[byte]


@dataclass
@final
@autoid("sequential")
class ResponseStatus(IdlStruct, typename="unitree_api.msg.dds_.ResponseStatus_"):
    """Result code, 0 for success."""

    code: int32


@dataclass
@final
@autoid("sequential")
class ResponseHeader(IdlStruct, typename="unitree_api.msg.dds_.ResponseHeader_"):
    """Header of a response."""

    identity: RequestIdentity
    status: ResponseStatus


@dataclass
@final
@autoid("sequential")
class Response(IdlStruct, typename="unitree_api.msg.dds_.Response_"):
    """Answer of a service of the robot; the data is JSON."""

    header: ResponseHeader
    data: str
    binary: sequence[byte]

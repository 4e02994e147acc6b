"""A program of somebody else, for CycloneDDS 0.10: what Unitree's own SDK is built on.

    python cyclonedds_0_10_peer.py user|robot DOMAIN IDL_FILE

``user`` makes the motion switcher let go and drives a G1 for a second; ``robot`` is a G1 that
reports its state until a command comes. Prints one JSON object. Runs in an interpreter of its own
and imports nothing of this repository but the file of IDL types, where ``byte`` becomes the
``uint8`` of the stock types.
"""

import importlib.util
import json
import struct
import sys
import time

import cyclonedds.idl.types as types
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

CONFIG = (
    '<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo"/></Interfaces>'
    "<AllowMulticast>false</AllowMulticast></General><Discovery><ParticipantIndex>auto"
    '</ParticipantIndex><Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain>'
    "</CycloneDDS>"
)
TABLE = []
for byte in range(256):
    crc = byte << 24
    for _ in range(8):
        crc = (crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)
    TABLE.append(crc & 0xFFFFFFFF)


def load_idl(path):
    types.byte = types.uint8
    spec = importlib.util.spec_from_file_location("idl", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["idl"] = module
    spec.loader.exec_module(module)
    return module


def checksum(data):
    crc = 0xFFFFFFFF
    for (word,) in struct.iter_unpack("<I", data):
        for byte in word.to_bytes(4, "big"):
            crc = (crc << 8 & 0xFFFFFFFF) ^ TABLE[crc >> 24 ^ byte]
    return crc


def command_bytes(c):
    motors = b"".join(
        struct.pack("<B3x5fI", m.mode, m.q, m.dq, m.tau, m.kp, m.kd, m.reserve) for m in c.motor_cmd
    )
    return struct.pack("<2B2x", c.mode_pr, c.mode_machine) + motors + struct.pack("<4I", *c.reserve)


def state_bytes(s):
    imu, motors = s.imu_state, b""
    for m in s.motor_state:
        motors += struct.pack("<B3x4f", m.mode, m.q, m.dq, m.ddq, m.tau_est)
        motors += struct.pack("<2hf7I", *m.temperature, m.vol, *m.sensor, m.motorstate, *m.reserve)
    vectors = (*imu.quaternion, *imu.gyroscope, *imu.accelerometer, *imu.rpy)
    head = struct.pack("<2I2B2xI", *s.version, s.mode_pr, s.mode_machine, s.tick)
    tail = struct.pack("<40B4I", *s.wireless_remote, *s.reserve)
    return head + struct.pack("<13fh2x", *vectors, imu.temperature) + motors + tail


def ask(idl, writer, reader, api):
    for number in range(1, 200):  # the robot may still be starting
        identity = idl.RequestIdentity(id=number, api_id=api)
        header = idl.RequestHeader(
            identity=identity,
            lease=idl.RequestLease(id=0),
            policy=idl.RequestPolicy(priority=0, noreply=False),
        )
        writer.write(idl.Request(header=header, parameter="", binary=[]))
        time.sleep(0.1)
        answers = [a for a in reader.take(10) if a.header.identity.id == number]
        if answers:
            return answers[0].data
    return None


def user(idl, dds):
    writer = DataWriter(dds, Topic(dds, "rt/api/motion_switcher/request", idl.Request))
    reader = DataReader(dds, Topic(dds, "rt/api/motion_switcher/response", idl.Response))
    before = ask(idl, writer, reader, 1001)
    ask(idl, writer, reader, 1003)
    after = ask(idl, writer, reader, 1001)
    states = DataReader(dds, Topic(dds, "rt/lowstate", idl.HgLowState))
    commands = DataWriter(dds, Topic(dds, "rt/lowcmd", idl.HgLowCmd))
    motor = dict(mode=1, dq=0.0, tau=0.0, kp=40.0, kd=2.0, reserve=0)
    heard = damaged = 0
    newest = None
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        for state in states.take(20):
            heard += 1
            damaged += checksum(state_bytes(state)) != state.crc
            newest = state
        if newest is not None:
            motors = [idl.HgMotorCmd(q=m.q, **motor) for m in newest.motor_state]
            command = idl.HgLowCmd(0, newest.mode_machine, motors, [0, 0, 0, 0], 0)
            command.crc = checksum(command_bytes(command))
            commands.write(command)
        time.sleep(0.005)
    return {"before": before, "after": after, "heard": heard, "damaged": damaged}


def robot(idl, dds):
    states = DataWriter(dds, Topic(dds, "rt/lowstate", idl.HgLowState))
    commands = DataReader(dds, Topic(dds, "rt/lowcmd", idl.HgLowCmd))
    zeros = dict(dq=0.0, ddq=0.0, tau_est=0.0, temperature=[30, 30], vol=0.0, sensor=[0, 0])
    motors = [
        idl.HgMotorState(mode=1, q=0.1 * (i < 29), **zeros, motorstate=0, reserve=[0] * 4)
        for i in range(35)
    ]
    imu = idl.HgImuState([1.0, 0.0, 0.0, 0.0], [0.0] * 3, [0.0, 0.0, 9.81], [0.0] * 3, 30)
    heard = damaged = 0
    until = time.monotonic() + 20.0
    tick = 0
    while time.monotonic() < until and heard < 50:
        tick += 5
        state = idl.HgLowState([1, 0], 0, 5, tick, imu, motors, [0] * 40, [0] * 4, 0)
        state.crc = checksum(state_bytes(state))
        states.write(state)
        for command in commands.take(20):
            heard += 1
            damaged += checksum(command_bytes(command)) != command.crc
        time.sleep(0.005)
    return {"heard": heard, "damaged": damaged}


def main():
    role, domain, path = sys.argv[1:]
    idl = load_idl(path)
    keep = Domain(int(domain), CONFIG)
    dds = DomainParticipant(int(domain))
    print(json.dumps({"user": user, "robot": robot}[role](idl, dds)))
    del dds, keep


if __name__ == "__main__":
    main()

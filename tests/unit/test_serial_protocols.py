"""Packets of STS servos, Modbus frames, lines of the e-stop button: good ones, and noise."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from realign_serial_driver import button, modbus_frames, robotiq, sts
from realign_serial_driver.button import ButtonMonitor, Pressed
from realign_serial_driver.modbus_frames import RequestParser, crc16
from realign_serial_driver.robotiq_model import NO_COMMUNICATION, GripperModel
from realign_serial_driver.servo_model import Servo
from realign_serial_driver.sts import Packet, Parser, Register

S = 1_000_000_000
PACKETS = st.builds(
    Packet,
    id=st.integers(0, 0xFD),
    code=st.integers(0, 255),
    parameters=st.binary(max_size=40),
)


# ---- servos ------------------------------------------------------------------------------------


def test_packets_of_the_protocol_manual():
    assert Packet(id=1, code=sts.PING).encode().hex() == "ffff010201fb"
    read = Packet(id=1, code=sts.READ, parameters=bytes([56, 2]))
    assert read.encode().hex() == "ffff0104023802be"


@given(st.lists(PACKETS, max_size=5), st.integers(1, 9))
def test_packets_come_out_as_they_went_in_whatever_the_pieces(packets, piece):
    stream = b"".join(packet.encode() for packet in packets)
    parser = Parser()
    found = [
        packet
        for at in range(0, len(stream), piece)
        for packet in parser.feed(stream[at : at + piece])
    ]
    assert found == packets
    assert parser.bad_checksums == 0


@given(st.binary(max_size=60), PACKETS)
def test_noise_never_raises_and_a_pause_later_all_is_well(noise, packet):
    parser = Parser()
    parser.feed(noise)
    parser.clear()
    assert parser.feed(packet.encode()) == [packet]


@given(PACKETS, st.data())
def test_a_damaged_byte_is_noticed(packet, data):
    wire = bytearray(packet.encode())
    at = data.draw(st.integers(2, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    parser = Parser()
    assert parser.feed(bytes(wire)) == []


@given(st.sampled_from([sts.POSITION, sts.LOAD, sts.HOMING_OFFSET]), st.integers(-1023, 1023))
def test_numbers_with_a_sign_bit(register, value):
    assert register.decode(register.encode(value)) == value


def test_numbers_that_do_not_fit_are_cut():
    assert sts.HOMING_OFFSET.encode(-3000) == struct.pack("<H", 0x800 | 2047)
    assert Register(address=0, size=1).encode(-5) == b"\0"
    assert Register(address=0, size=1).encode(300) == b"\xff"


def test_an_emulated_servo_keeps_its_eeprom_locked_and_its_sensors():
    servo = Servo(3)
    servo.write(sts.HOMING_OFFSET.address, b"\x64\x00")
    assert servo.get(sts.HOMING_OFFSET) == 0
    assert servo.locked_writes == 2
    servo.write(sts.LOCK.address, b"\0")
    servo.write(sts.HOMING_OFFSET.address, b"\x64\x00")
    servo.set_position(2148, 0, 0)
    servo.write(sts.POSITION.address, b"\0\0")
    assert servo.get(sts.POSITION) == 2048


# ---- gripper -----------------------------------------------------------------------------------


def test_modbus_checksum_of_the_specification():
    assert crc16(bytes.fromhex("0207")) == bytes.fromhex("4112")


@given(st.binary(max_size=60))
def test_modbus_parser_never_raises(noise):
    RequestParser().feed(noise)


@given(st.binary(max_size=5).filter(lambda b: 9 not in b), st.integers(1, 5))
def test_modbus_request_is_found_behind_noise(noise, piece):
    body = struct.pack(">BBHH", 9, 4, robotiq.INPUT, 3)
    stream = noise + body + crc16(body) + bytes(300)  # what follows settles what the noise was
    parser = RequestParser()
    found = [r for at in range(0, len(stream), piece) for r in parser.feed(stream[at : at + piece])]
    assert [r.address for r in found if r.device == 9] == [robotiq.INPUT]


@pytest.mark.parametrize("width", [0.0, 0.02, 0.085])
def test_widths_and_counts(width):
    assert robotiq.count_to_width(robotiq.width_to_count(width)) == pytest.approx(width, abs=3e-4)
    assert robotiq.width_to_count(1.0) == robotiq.OPEN_COUNT
    assert robotiq.width_to_count(-1.0) == robotiq.CLOSED_COUNT


def test_emulated_gripper_complains_when_nobody_asks_any_more():
    model = GripperModel()

    def write(now, *values):
        request = modbus_frames.Request(
            device=9, function=16, address=robotiq.OUTPUT, values=values
        )
        return model.obey(request, now)

    def fault(now):
        request = modbus_frames.Request(device=9, function=4, address=robotiq.INPUT, count=3)
        return model.obey(request, now)[5]

    write(S, 0x0100, 0, 0)
    assert fault(3 * S) == NO_COMMUNICATION
    assert model.obey(modbus_frames.Request(device=2, function=4, address=0), 4 * S) is None
    refused = model.obey(modbus_frames.Request(device=9, function=4, address=0, count=1), 4 * S)
    assert refused[1:3] == bytes([0x84, modbus_frames.ILLEGAL_ADDRESS])


# ---- e-stop button -----------------------------------------------------------------------------


def test_line_of_the_button_is_documented():
    assert button.line_of(False, 7) == b"$RUN,7*52\n"
    assert button.parse_line(b"$STOP,12*37") == (True, 12)


@given(st.binary(max_size=40))
def test_only_whole_lines_count(line):
    assert button.parse_line(line) is None or line.strip().startswith(b"$")


def test_any_changed_byte_of_a_line_is_noticed():
    good = button.line_of(False, 123).strip()
    for at in range(len(good)):
        for value in range(256):
            other = good[:at] + bytes([value]) + good[at + 1 :]
            if other.upper() != good.upper():
                assert button.parse_line(other) is None, other


def test_button_that_runs_stops_and_falls_silent():
    monitor, now = ButtonMonitor(), S
    assert monitor.pressed(now) is Pressed.NEVER_HEARD
    for number in range(5):
        now += S // 20
        monitor.feed(button.line_of(False, number), now)
        assert monitor.pressed(now) is Pressed.NO
    monitor.feed(button.line_of(True, 5), now)
    assert monitor.pressed(now) is Pressed.YES
    monitor.feed(button.line_of(False, 6), now)
    assert monitor.pressed(now) is Pressed.NO
    assert monitor.pressed(now + S // 5) is Pressed.NO
    assert monitor.pressed(now + S // 3) is Pressed.SILENT


def test_button_that_repeats_itself_is_not_alive():
    monitor, now = ButtonMonitor(), S
    for _ in range(10):
        now += S // 20
        monitor.feed(button.line_of(False, 3), now)
    assert monitor.pressed(now) is Pressed.SILENT
    for _ in range(10):
        now += S // 20
        monitor.feed(button.line_of(True, 3), now)
    assert monitor.pressed(now) is Pressed.YES


def test_pieces_of_lines_and_noise():
    monitor, now = ButtonMonitor(), S
    stream = b"RUN,1*54\n" + button.line_of(False, 2) + b"\xff\xfe\n" + button.line_of(False, 3)
    for at in range(len(stream)):
        monitor.feed(stream[at : at + 1], now)
    assert monitor.pressed(now) is Pressed.NO
    assert monitor.bad_lines == 2
    monitor.feed(bytes(100_000), now)  # a line without an end takes no memory
    assert len(monitor._buffer) < 100

"""Unitree robots over DDS: driver node, wire process, emulator of the robot's side."""

"""Franka FR3 over FCI, or through ros2_control; and an emulated control box."""

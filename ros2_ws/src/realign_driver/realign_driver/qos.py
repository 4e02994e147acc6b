"""Quality of service of what drivers say and hear."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)

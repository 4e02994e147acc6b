"""Quality of service of what nodes say and hear."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, QoSProfile

QOS = QoSProfile(depth=100)
# Whoever joins late hears all that was said, or what was said last.
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
LATCHED_NEWEST = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)

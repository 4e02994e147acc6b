"""The policy runtime: guard, limits, timing. Pure: no ROS, no threads, the clock is passed in."""

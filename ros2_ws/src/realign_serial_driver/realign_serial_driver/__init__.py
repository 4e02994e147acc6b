"""Serial devices as ROS nodes: servo arms, the Robotiq 2F-85, an e-stop button; and emulators."""

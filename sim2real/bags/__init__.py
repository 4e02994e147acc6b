"""Bags without ROS: reading (rosbag2 sqlite3 and MCAP), writing (MCAP), salvage."""

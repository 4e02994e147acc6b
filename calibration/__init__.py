"""Calibration of cameras, hand and eye, encoders, clocks and motors: typed, versioned results."""

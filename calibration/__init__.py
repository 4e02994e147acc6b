"""Calibration results: typed, versioned, with provenance. The procedures land here one by one."""

"""Recorder node."""

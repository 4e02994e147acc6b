"""Demonstrations that policies learn from, and their layout on disk."""

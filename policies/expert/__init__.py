"""Scripted experts: what behaviour-cloned policies learn from."""

"""Policies that are told in words what to do: images and instruction in, action chunks out."""

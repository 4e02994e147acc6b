"""Simulator workers: standard library, NumPy and one engine each, in Python 3.8 syntax.

They run in an interpreter that has no realign: ``python -m workers.mujoco_worker`` from the folder
above. What they know of a robot comes in the handshake (``wire.py``).
"""

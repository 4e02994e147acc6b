"""Checkpoints of LeRobot as policies of realign: evaluated where LeRobot lives, run here."""

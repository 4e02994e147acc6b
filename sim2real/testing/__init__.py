"""A policy, a guard and a virtual robot in one process: for tests of policies and of the guard."""

"""Actors: policies that map an observation vector to an action with one network call."""

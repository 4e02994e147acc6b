"""Programs that run in another interpreter: they import the standard library and what it has."""

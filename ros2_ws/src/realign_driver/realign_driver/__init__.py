"""What nodes share: life and health, chunks and commands, and all that drivers have in common."""

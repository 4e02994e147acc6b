"""What nodes share: life, health, chunks, commands, and what drivers have in common."""

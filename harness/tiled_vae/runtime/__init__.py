"""What a run holds: planes, their statistics, feature caches, and the arena on the host."""

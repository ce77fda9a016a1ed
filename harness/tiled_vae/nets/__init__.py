"""The modules of a coder: whose code they run, and how one is called for a tile."""

"""What a run is asked for: options, hooks and cases, and what is wrong with them."""

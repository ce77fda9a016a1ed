"""What the rooms tell each other: cases, findings, promises, and how a VAE is called."""

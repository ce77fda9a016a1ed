"""vae-compat: does a tiled VAE still equal the VAE, and does it really save VRAM?"""

"""Which steps run together on a tile, so that nothing between them is stored."""

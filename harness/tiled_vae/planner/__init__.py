"""How a program is run within a budget: tiles or bands, and where each plane is stored."""

"""From a coder, or a call of one, to a program: one front end for images and one for clips."""

"""A page that shows published bugs as a report of the harness shows them."""

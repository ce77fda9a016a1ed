"""index.html: the run as one page that needs nothing else, neither a server nor a network."""

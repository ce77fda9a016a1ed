"""The hook under test: profile, loading, host stand-ins, putting it on and taking it off."""

"""JSON bodies: each decoded once, large ones in slices between which the event loop gets its turn."""

"""Who is asking, and how much they may ask. No HTTP, no SQL."""

"""The benchmark: chatterd, its peers and its own revisions under one load, side by side (``make bench``)."""

"""The benchmark: chatterd and its peers under one load, side by side (``make bench``)."""

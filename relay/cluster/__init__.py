"""Which processes are alive, and notifications between them."""

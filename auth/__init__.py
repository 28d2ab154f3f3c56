"""Authentication, origins, proxies and rate limits. Contains no HTTP handlers and no SQL."""

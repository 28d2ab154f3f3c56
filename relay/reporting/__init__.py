"""What this process measures, for Prometheus and the status page."""

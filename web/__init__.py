"""What HTTP handlers share: authentication, request bodies, errors as JSON, streams."""

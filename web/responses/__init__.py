"""Responses that are written while their client reads them: event streams, and JSON too large to be held in memory."""

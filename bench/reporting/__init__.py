"""The results: kept as JSON, written as Markdown, drawn."""

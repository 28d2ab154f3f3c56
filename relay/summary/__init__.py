"""Summaries of what models are not sent any more (``--summarize``): what is asked for, and when."""

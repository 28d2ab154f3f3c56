"""Long campaigns against a whole site: servers, database and connections die, and every line is counted."""

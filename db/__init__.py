"""Access to PostgreSQL: the pool, the migrations, and one function for each SQL statement."""

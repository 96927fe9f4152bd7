"""What is kept: records in SQLite, one writer, read without torch."""

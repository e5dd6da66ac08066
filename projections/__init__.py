"""What is read: read models folded from the event log, and the migrations of every table."""

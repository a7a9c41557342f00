"""Storage files of bags: MCAP and sqlite3, compressed, unfinished or with a write-ahead log."""

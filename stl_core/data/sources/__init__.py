"""One file a data format: ids, and a sample read by its id."""

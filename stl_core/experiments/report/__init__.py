"""Tables, charts and comparisons of the methods of a study."""

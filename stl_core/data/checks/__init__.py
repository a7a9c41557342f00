"""Labels, projections and pictures of a data set held against each other; what a run teaches."""

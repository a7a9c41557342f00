"""Model files, and the Predictor that runs them on images."""

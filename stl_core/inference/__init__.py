"""Model files, and the Predictor that runs a model on images."""

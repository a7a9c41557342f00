"""Building blocks of the CenterNet-style detectors MonoDLE and MonoCon."""

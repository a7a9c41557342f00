"""Building blocks of the DETR-style detector MonoDETR."""

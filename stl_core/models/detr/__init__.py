"""Parts of the DETR-style detector, MonoDETR."""

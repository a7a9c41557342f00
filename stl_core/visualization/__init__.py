"""Pictures and charts: boxes on images, bird's-eye view, curves."""

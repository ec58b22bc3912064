"""From images to the levels of a feature pyramid."""

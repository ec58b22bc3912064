"""From scored candidates to the detections of an image."""

"""Small sample sets in COCO form: tree crowns in aerial photographs, and procedural shapes."""

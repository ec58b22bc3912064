"""Which anchors and proposals are positives of which object."""

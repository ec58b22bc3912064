"""rst, the Rank & Sort Toolkit: exact ranking losses for detection, and the detectors that train with them."""

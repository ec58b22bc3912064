"""The file format of COCO and LVIS: read, typed and checked once, for training and for evaluation."""
